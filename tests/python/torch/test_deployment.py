# SPDX-License-Identifier: Apache-2.0

"""After training: torch.fx, torch.jit.trace, torch.export, ONNX, torch.func and forward-mode AD.

In evaluation the layer is torch's own batch norm there. Its values are compared with those of nn.BatchNorm2d.
"""

import copy
import io
import os
import subprocess
import sys

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn
from torch.ao.quantization import get_default_qat_qconfig_mapping, get_default_qconfig_mapping, quantize_fx
from torch.fx.experimental.optimization import fuse
from torch.fx.passes.shape_prop import ShapeProp

from syncbn.torch import SyncBatchNorm, convert_sync_batchnorm, revert_sync_batchnorm

IS_TORCH24 = torch.__version__.startswith("2.4.")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch means to give its tracer and its quantization up
CLOSE = 1e-5
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def plain_model():
    """A network of torch's layers in evaluation, with statistics of a trained one."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    with torch.no_grad():
        model[1].running_mean.normal_(), model[1].running_var.uniform_(0.5, 2)
        model[1].weight.normal_(), model[1].bias.normal_()
    return model.eval()


def converted_model():
    return convert_sync_batchnorm(plain_model())


class Residual(nn.Module):
    """Uses all that the layer has beyond torch's."""

    def __init__(self):
        super().__init__()
        self.conv, self.side = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.norm = SyncBatchNorm(4, activation="relu", bias=False)

    def forward(self, x):
        return self.norm(self.conv(x), residual=self.side(x))


def residual_model():
    torch.manual_seed(1)
    return Residual().eval()


MODELS = {"converted": converted_model, "residual": residual_model,
          "no statistics": lambda: nn.Sequential(SyncBatchNorm(3, affine=False, track_running_stats=False)).eval()}
models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def targets(graph_module, op="call_module"):
    return [str(node.target) for node in graph_module.graph.nodes if node.op == op]


# torch.fx.

def test_fx_sees_a_leaf():
    model, plain = converted_model(), plain_model()
    traced = torch.fx.symbolic_trace(model)
    assert targets(traced) == targets(torch.fx.symbolic_trace(plain)) == ["0", "1", "2"]
    assert torch.equal(traced(X), model(X))
    again = torch.fx.symbolic_trace(copy.deepcopy(traced).train())
    again(X)
    assert targets(again) == ["0", "1", "2"] and again.get_submodule("1").num_batches_tracked == 1
    ShapeProp(traced).propagate(X)
    assert [node.meta["tensor_meta"].shape for node in traced.graph.nodes] == [X.shape] + [(2, 4, 4, 4)] * 4
    traced = torch.fx.symbolic_trace(residual_model())
    assert targets(traced) == ["conv", "side", "norm"] and torch.equal(traced(X), residual_model()(X))


def test_hooks_of_a_leaf_run_with_the_graph_and_not_while_it_is_traced():
    counts = {}
    for name, model in (("ours", converted_model()), ("torch's", plain_model())):
        calls = counts[name] = []
        model[1].register_forward_pre_hook(lambda module, arguments: calls.append(len(arguments[0])))
        model[1].register_forward_hook(lambda module, arguments, y: y * 2)
        traced = torch.fx.symbolic_trace(model)
        assert calls == []
        assert torch.equal(traced(X), model(X))
    assert counts["ours"] == counts["torch's"] == [2, 2]


class Own(SyncBatchNorm):
    """A subclass whose forward would do its part twice if torch.fx traced it and the layer, too."""

    def forward(self, x):
        return super().forward(x) + 1


def test_a_subclass_is_a_leaf_too_and_so_are_copies():
    for layer in (Own(3).eval(), copy.deepcopy(Own(3).eval())):
        traced = torch.fx.symbolic_trace(nn.Sequential(layer))
        assert targets(traced) == ["0"] and torch.equal(traced(X), layer(X))


class Everything(torch.fx.Tracer):
    def is_leaf_module(self, module, name):
        return False


def test_a_tracer_that_wants_no_leaves_is_told():
    with pytest.raises(TypeError, match="torch.fx can't trace into SyncBatchNorm: Tracer.is_leaf_module must return True"):
        Everything().trace(nn.Sequential(SyncBatchNorm(3)))


@pytest.mark.parametrize("way", ["fuse", "PTQ", "QAT"])
def test_fusion_and_quantization_treat_it_as_torchs_own_sync_batch_norm(way):
    def result(model):
        if way == "fuse":
            return fuse(model.eval())
        if way == "PTQ":
            prepared = quantize_fx.prepare_fx(model.eval(), get_default_qconfig_mapping("fbgemm"), (X,))
        else:
            prepared = quantize_fx.prepare_qat_fx(model.train(), get_default_qat_qconfig_mapping("fbgemm"), (X,))
        prepared(X)
        return quantize_fx.convert_fx(prepared.eval())

    def norms(graph_module):
        return [type(module) for module in graph_module.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(plain_model())
    if way == "QAT":  # in training it works on GPUs only
        theirs = quantize_fx.prepare_qat_fx(theirs.train(), get_default_qat_qconfig_mapping("fbgemm"), (X,))
        ours = quantize_fx.prepare_qat_fx(converted_model().train(), get_default_qat_qconfig_mapping("fbgemm"), (X,))
    else:
        theirs, ours = result(theirs), result(converted_model())
    assert targets(ours) == targets(theirs) and len(norms(ours)) == len(norms(theirs)) == 1
    result(converted_model())(X)
    reverted = result(revert_sync_batchnorm(converted_model()))
    assert norms(reverted) == [] and targets(reverted) == targets(result(plain_model()))


# Graphs of torch's own operators.

def traced(model):
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, X), file)
    file.seek(0)
    return torch.jit.load(file), str(torch.jit.trace(model, X).inlined_graph)


def exported(model, strict):
    program = torch.export.export(model, (X,), strict=strict)
    return program.module(), program.graph_module.code


WAYS = {"jit.trace": traced, "export": lambda model: exported(model, False),
        "strict export": lambda model: exported(model, True)}
ways = pytest.mark.parametrize("way", WAYS)


@models
@ways
def test_evaluation_is_torchs_own_operators(model, way):
    model = model()
    with torch.no_grad():
        expected = model(X)
        program, code = WAYS[way](model)
        assert "batch_norm" in code and "syncbn::" not in code and "syncbn." not in code.replace("syncbn.torch", "")
        for part in (slice(None), slice(0, 1)) if way == "jit.trace" else (slice(None),):
            assert (program(X[part]) - model(X[part])).abs().max() < CLOSE
    assert torch.equal(model(X), expected)  # eager evaluation is as it was


@ways
def test_control_training_keeps_the_operators_of_syncbn(way):
    if way == "jit.trace":
        code = str(torch.jit.trace(converted_model().train(), X, check_trace=False).inlined_graph)
    else:
        code = WAYS[way](converted_model().train())[1]
    assert "syncbn" in code and "batch_norm" not in code


DTYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize("parameters", DTYPES)
@pytest.mark.parametrize("inputs", DTYPES)
def test_all_pairs_of_dtypes(inputs, parameters):
    layer = SyncBatchNorm(3, activation="relu", dtype=parameters).eval()
    with torch.no_grad():
        layer.running_mean.normal_(), layer.running_var.uniform_(0.5, 2), layer.weight.normal_()
    x = X.to(inputs)
    y = torch.jit.trace(layer, x)(x)
    assert y.dtype == inputs
    assert torch.allclose(y.double(), layer(x).double(), rtol=4 * torch.finfo(inputs).eps, atol=1e-5)


def test_wrong_arguments_are_the_same_errors():
    layer = SyncBatchNorm(3).eval()
    with pytest.raises(ValueError, match="residual: torch.float32 of shape"):
        torch.func.vmap(lambda x: layer(x, x[:1]))(X[None])
    with pytest.raises(ValueError, match="expected C = num_features = 3"):
        torch.jit.trace(layer, X[:, :2])


# Files, where syncbn is not installed.

LOADS = """
import importlib.util, sys, torch
assert importlib.util.find_spec("syncbn") is None
x = torch.load("x.pt")
for name in sys.argv[1:]:
    program = torch.jit.load(name) if name.endswith(".pt") else torch.export.load(name).module()
    torch.save(program(x), name + ".y")
"""


def run_without_syncbn(folder, *names):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([sys.executable, "-c", LOADS, *names], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=300)


def test_files_load_where_syncbn_is_not_installed(tmp_path):
    torch.save(X, tmp_path / "x.pt")
    with torch.no_grad():
        model = residual_model()
        torch.jit.save(torch.jit.trace(model, X), tmp_path / "traced.pt")
        for strict in (False, True):
            torch.export.save(torch.export.export(model, (X,), strict=strict), tmp_path / f"{strict}.pt2")
        torch.export.save(torch.export.export(converted_model().train(), (X,)), tmp_path / "training.pt2")
        names = "traced.pt", "False.pt2", "True.pt2"
        done = run_without_syncbn(tmp_path, *names)
        assert done.returncode == 0, done.stderr
        for name in names:
            assert (torch.load(tmp_path / f"{name}.y") - model(X)).abs().max() < CLOSE
    control = run_without_syncbn(tmp_path, "training.pt2")
    assert control.returncode != 0 and "syncbn" in control.stderr


@models
@pytest.mark.parametrize("dynamo", [False, True], ids=["by TorchScript", "by dynamo"])
def test_onnx(model, dynamo, tmp_path):
    reference = pytest.importorskip("onnx.reference")
    if dynamo:
        pytest.importorskip("onnxscript")
        if IS_TORCH24:
            pytest.skip("torch 2.4's exporter by dynamo needs an onnxscript of its time")
    model, path = model(), str(tmp_path / "model.onnx")
    torch.onnx.export(model, (X,), path, **({} if IS_TORCH24 else {"dynamo": dynamo}))
    evaluator = reference.ReferenceEvaluator(path)
    program = evaluator.proto_
    assert not program.functions
    assert {node.domain for node in program.graph.node} == {""}
    y, = evaluator.run(None, {program.graph.input[0].name: X.numpy()})
    assert (torch.tensor(y) - model(X)).abs().max() < CLOSE


# Transforms.

def ensemble(model):
    """Two models in one call, as torch.func stacks them."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    parameters, buffers = torch.func.stack_module_state([model, other])
    call = torch.func.vmap(lambda p, b, x: torch.func.functional_call(model, (p, b), (x,)), (0, 0, None))
    return call(parameters, buffers, X)


def jvp_of_dual_numbers(model):
    with forward_ad.dual_level():
        y = forward_ad.unpack_dual(model(forward_ad.make_dual(X, X.cos())))
    return y.tangent


def loss(model):
    return lambda x: model(x[None]).sin().sum()


TRANSFORMS = {
    "vmap": lambda model: torch.func.vmap(lambda x: model(x[None])[0])(X),
    "grad": lambda model: torch.func.grad(loss(model))(X[0]),
    "vmap of grad": lambda model: torch.func.vmap(torch.func.grad(loss(model)))(X),
    "jvp": lambda model: torch.func.jvp(model, (X,), (X.cos(),))[1],
    "vjp": lambda model: torch.func.vjp(model, X)[1](torch.ones(2, 4, 4, 4))[0],
    "jacrev": lambda model: torch.func.jacrev(loss(model))(X[0]),
    "jacfwd": lambda model: torch.func.jacfwd(lambda t: model(X[:1] * t))(torch.ones(())),
    "hessian": lambda model: torch.func.hessian(lambda t: loss(model)(X[0] * t))(torch.ones(())),
    "gradients by parameter": lambda model: torch.func.grad(
        lambda p: torch.func.functional_call(model, p, (X,)).sin().sum())(dict(model.named_parameters()))["1.weight"],
    "ensemble": ensemble,
    "dual numbers": jvp_of_dual_numbers,
}
transforms = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


@transforms
def test_transforms_of_an_evaluation_are_those_of_torchs_layer(transform):
    ours, theirs = transform(converted_model()), transform(plain_model())
    assert theirs is not None and (ours - theirs).abs().max() < CLOSE


@pytest.mark.parametrize("name", ["vmap", "grad", "vmap of grad"])
def test_compiled_transforms(name):
    if IS_TORCH24 and name == "vmap":
        pytest.skip("torch 2.4 can't compile a vmap of a module with parameters")
    transform = TRANSFORMS[name]
    ours = torch.compile(transform, backend="eager")(converted_model())
    assert (ours - transform(plain_model())).abs().max() < CLOSE


COMPILED_JVP = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_deployment import TRANSFORMS, CLOSE, converted_model, plain_model
try:
    tangent = torch.compile(TRANSFORMS["jvp"], backend="eager")(converted_model())
except Exception as error:
    print(type(error).__name__)
else:
    assert (tangent - TRANSFORMS["jvp"](plain_model())).abs().max() < CLOSE
"""


def test_a_compiled_jvp_is_an_error_or_right():
    """PyTorch 2.15 and 2.4 have a fault: they can't compile the jvp of their own batch norm, and are in a bad state then. A
    process of its own has no other tests."""
    folder = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", COMPILED_JVP, folder], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@transforms
def test_transforms_of_training_are_refused_and_change_nothing(transform):
    model = converted_model().train()
    with pytest.raises(RuntimeError, match="SyncBatchNorm in training does not work under torch.func"):
        transform(model)
    assert model[1].num_batches_tracked == 0


def test_evaluation_keeps_its_bits_in_eager_and_compiled():
    model = converted_model()
    expected = model(X)
    with torch.no_grad():
        assert torch.equal(model(X), expected)
    with forward_ad.dual_level():
        model(X)
    assert torch.equal(model(X), expected)
    assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(X), expected)
