import warnings
import numpy as np
from recurrax.interop import OnnxRecurrence

def test_published_node_cases():
    from onnx.backend.test.case.node import collect_testcases
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [c for c in collect_testcases() if c.model.graph.node[0].op_type in ("RNN","LSTM","GRU")]
    assert len(cases) >= 18
    for case in cases:
      for inputs, outputs in case.data_sets:
        feeds = dict(zip([i.name for i in case.model.graph.input], inputs, strict=True))
        X = feeds.pop("X")
        got = dict(zip(["Y","Y_h","Y_c"], OnnxRecurrence.read(case.model, weights=feeds)(X)))
        for o, e in zip(case.model.graph.output, outputs, strict=True):
            np.testing.assert_allclose(got[o.name], e, rtol=case.rtol, atol=case.atol)
