"""Processes and rounds: each contender lives in a process of its own, and they take turns, one working at a time."""

from __future__ import annotations

import functools
import gc
import importlib
import multiprocessing
import operator
import signal
import statistics
import time
from typing import Any

from benchmarks.speed.cases import Absent, Case
from benchmarks.speed.contenders import CONTENDERS, NATIVE, PRODUCT, Work

# PyTorch's threads go on spinning for a while after work; nobody else is to pay for that.
PAUSE = 0.02


class NoResult(Exception):  # noqa: N818
    """Why a contender has no figures: `kind` is "absent" (it has no such thing) or "failed"."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


class Racer:
    """A contender's process, seen from here; started at once, and again where it died."""

    def __init__(self, name: str, implementation: str | None, seconds: float):
        self.name, self._args = name, (name, implementation, seconds)
        self._start()

    def ask(self, request: str, case: Case | None = None) -> Any:
        """Sends a request and waits for the answer; raises `NoResult`."""
        try:
            self._pipe.send((request, case))
            return self._answer()
        except (EOFError, OSError) as error:
            self._process.join()
            code = self._process.exitcode
            self._start()
            raise NoResult("failed", f"its process ended with exit code {code}") from error

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, *self._args), daemon=True)
        self._process.start()
        theirs.close()  # So that a contender that dies is noticed at once.
        self._answer()

    def _answer(self) -> Any:
        kind, answer = self._pipe.recv()
        if kind != "done":
            raise NoResult(kind, answer)
        return answer


def race(case: Case, racers: list[Racer], rounds: int, weighed: dict[str, Racer]) -> dict[str, dict[str, Any]]:
    """Runs one case; returns for each contender its figures, or why there are none.

    Whoever's memory can only be measured by settings of malloc that change its times has a second process in `weighed`.
    """
    results: dict[str, dict[str, Any]] = {}
    turns: dict[Racer, list[float]] = {}
    try:
        for racer in racers:
            try:
                results[racer.name] = racer.ask("prepare", case)
                scales = weighed.get(racer.name, racer)
                if scales is not racer:
                    scales.ask("prepare", case)
                results[racer.name]["peak_bytes"] = scales.ask("weigh")
                turns[racer] = []
            except NoResult as why:
                results[racer.name] = {why.kind: str(why)}
        for number in range(rounds):
            # Everyone comes early and late, and after everyone else, as often as the others.
            order = list(turns)[number % len(turns) :] + list(turns)[: number % len(turns)] if turns else []
            for racer in order[:: -1 if number % 2 else 1]:
                time.sleep(PAUSE)
                try:
                    turns[racer].append(racer.ask("turn"))
                except NoResult as why:
                    results[racer.name] = {why.kind: str(why)}
                    del turns[racer]
    finally:
        for racer in turns:
            racer.ask("forget")
    taken_by = {racer.name: taken for racer, taken in turns.items()}
    product = taken_by.get("product")
    for name, taken in taken_by.items():
        results[name] |= {"seconds": statistics.median(taken), "seconds_of_rounds": taken}
        if name == "product":
            continue
        twin = CONTENDERS[name].twin
        for measure, ours in (("ratio", twin), ("native_ratio", NATIVE[twin])):
            if ours in taken_by:
                results[name] |= ratios(measure, taken_by[ours], taken)
        if product:
            # Rates, as shares of the product's in the same round, and the best rounds of both.
            share = case.flops / results["product"]["flops"]
            results[name]["matmul_fraction"] = share * statistics.median(map(operator.truediv, product, taken))
            results[name]["best_matmul_fraction"] = share * min(product) / min(taken)
    return results


def ratios(measure: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """The median of the ratios of the same rounds, and their quartiles."""
    of_rounds = list(map(operator.truediv, ours, theirs))
    result: dict[str, Any] = {measure: statistics.median(of_rounds)}
    if len(of_rounds) > 1:
        low, _, high = statistics.quantiles(of_rounds, n=4, method="inclusive")
        result[f"{measure}_quartiles"] = (low, high)
    return result


def _serve(pipe: Any, name: str, implementation: str | None, seconds: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end is everyone's.
    contender = PRODUCT if name == "product" else CONTENDERS[name]
    try:
        build = importlib.import_module(f"benchmarks.speed.contenders.{contender.module}").build
    except Exception as error:
        pipe.send(("failed", _reason(error)))
        return
    if contender.distribution == "recurrax":
        build = functools.partial(build, implementation=implementation)
    pipe.send(("done", None))
    work, figures = None, {}
    while True:
        try:
            request, case = pipe.recv()
        except EOFError:
            return
        try:
            if request == "prepare":
                work = build(case)
                figures = _prepare(work, seconds)
                pipe.send(("done", figures))
            elif request == "weigh":
                with work.context():
                    pipe.send(("done", work.peak_bytes()))
            elif request == "turn":
                pipe.send(("done", _repeat(work, figures["calls_per_turn"])))
            else:
                work = None
                pipe.send(("done", None))
        except Absent as why:
            pipe.send(("absent", str(why)))
        except Exception as error:
            work = None
            pipe.send(("failed", _reason(error)))
        gc.collect()


def _prepare(work: Work, seconds: float) -> dict[str, Any]:
    first, later = _repeat(work, 1), _repeat(work, 1)
    later = _repeat(work, max(1, int(seconds / 5 / later)))
    return {
        "device": work.device,
        "compile_seconds": max(0.0, first - later) if work.compile_seconds is None else work.compile_seconds,
        "xla_bytes": work.xla_bytes,
        "calls_per_turn": max(1, round(seconds / later)),
        "flops": work.flops,
    }


def _repeat(work: Work, calls: int) -> float:
    with work.context():
        began = time.perf_counter()
        for _ in range(calls):
            result = work.call()
        work.wait(result)
        return (time.perf_counter() - began) / calls


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
