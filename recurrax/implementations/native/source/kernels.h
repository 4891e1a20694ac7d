// The functions of a `Target`: they pick the cell.
#pragma once

#include "backward.h"
#include "cells.h"
#include "forward.h"
#include "target.h"

namespace recurrax {
namespace {

// Calls function(cell) with the cell of this kind.
template <class Function>
void with_cell(Kind kind, const Function& function) {
  switch (kind) {
    case Kind::lstm:
      return function(Lstm{});
    case Kind::gru:
      return function(Gru{});
    case Kind::elman_tanh:
      return function(Elman<false>{});
    case Kind::elman_relu:
      return function(Elman<true>{});
  }
}

template <class Shape>
void forward(const Arguments& call, const Results& results, Team& team) {
  with_cell(call.kind, [&](auto cell) {
    Forward<Shape, decltype(cell)>(call, results, team).run();
  });
}

template <class Shape>
void backward(const Arguments& call, const Cotangents& given, const Gradients& out, Team& team) {
  with_cell(call.kind, [&](auto cell) {
    Backward<Shape, decltype(cell)>(call, given, out, team).run();
  });
}

}  // namespace
}  // namespace recurrax
