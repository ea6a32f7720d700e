"""What a user names on the command line: found and built, or refused in one or two lines that say the way out."""

import copy
import os
import pickle
import re
import sys
import textwrap
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from separatrix.core.errors import InputError, MissingExtraError, ModelError, SeparatrixError
from separatrix.loading import load_arguments, load_inputs, load_model, load_weights_


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> str:
    """A file of the user's."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(textwrap.dedent(text))
    return name


def refused(spec: str, kind: type[SeparatrixError] = ModelError) -> str:
    """The message of `load_model`: one or two lines, none of them a traceback."""
    with pytest.raises(kind) as caught:
        load_model(spec)
    return in_two_lines(caught)


def in_two_lines(caught: pytest.ExceptionInfo[SeparatrixError]) -> str:
    message = str(caught.value)
    assert 1 <= len(message.splitlines()) <= 2
    assert "Traceback" not in message
    return message


NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, hidden=5):
            super().__init__()
            self.gru = nn.GRU(3, hidden)

    class Models:
        @staticmethod
        def small():
            return Net(2)

    def make():
        return Net(4)

    def make_sized(inputs, hidden, *, layers, bias=True):
        return nn.GRU(inputs, hidden, layers, bias)

    ready = Net(7)
    size = 12
"""


# --- models: what is accepted


@pytest.mark.parametrize(("name", "hidden"), [("make", 4), ("Net", 5), ("ready", 7), ("Models.small", 2)])
def test_a_factory_is_a_function_a_class_an_instance_or_a_dotted_name(name, hidden):
    assert load_model(f"{write('net.py', NET)}:{name}").gru.hidden_size == hidden


def test_a_factory_that_gives_an_instance_gives_that_one_and_no_copy():
    write("net.py", "from torch import nn\nready = nn.GRU(1, 1)\nready.itself = [ready]\ndef give(): return ready")
    model = load_model("net.py:give")
    assert model.itself[0] is model


def test_a_file_imports_its_siblings_and_leaves_sys_path_as_it_was():
    write("zoo/sizes/hidden.py", "HIDDEN = 6")
    write("zoo/layers_of_mine.py", "from sizes.hidden import HIDDEN")
    write("zoo/net.py", "from torch import nn\nfrom layers_of_mine import HIDDEN\ndef make(): return nn.GRU(1, HIDDEN)")
    before = list(sys.path)
    assert load_model("zoo/net.py:make").hidden_size == 6
    assert sys.path == before


def test_a_factory_may_import_siblings_when_it_is_called():
    write("zoo/late_sizes.py", "HIDDEN = 9")
    write(
        "zoo/net.py",
        "from torch import nn\ndef make():\n    from late_sizes import HIDDEN\n    return nn.GRU(1, HIDDEN)",
    )
    assert load_model("zoo/net.py:make").hidden_size == 9


def test_siblings_of_one_name_in_two_folders_are_not_confused():
    for folder, hidden in (("a", 3), ("b", 8)):
        write(f"{folder}/shared_name.py", f"HIDDEN = {hidden}")
        write(
            f"{folder}/net.py",
            "from torch import nn\nimport shared_name\ndef make(): return nn.GRU(1, shared_name.HIDDEN)",
        )
    assert [load_model(f"{folder}/net.py:make").hidden_size for folder in "aba"] == [3, 8, 3]


def test_a_file_named_like_a_library_does_not_replace_it():
    write("random.py", "from torch import nn\ndef make(): return nn.GRU(1, 2)")
    import random

    load_model("random.py:make")
    assert sys.modules["random"] is random


def test_a_class_can_find_its_own_module():
    """Dataclasses, pickle and inspect look a class's module up in sys.modules."""
    write("net.py", "from torch import nn\nclass Net(nn.Module): pass")
    model = load_model("net.py:Net")
    assert pickle.loads(pickle.dumps(model)).__class__ is type(model)


def test_a_dotted_module_is_found_in_the_working_directory():
    write("my_package/__init__.py", "")
    write("my_package/sizes.py", "HIDDEN = 11")
    write("my_package/net.py", "from torch import nn\nfrom .sizes import HIDDEN\ndef make(): return nn.GRU(1, HIDDEN)")
    assert load_model("my_package.net:make").hidden_size == 11


def test_an_installed_module_needs_no_file():
    assert isinstance(load_model("torch.nn:Identity"), nn.Identity)


def test_a_folder_with_a_colon_in_its_name_is_no_obstacle():
    write("run:3/net.py", NET)
    assert load_model("run:3/net.py:make").gru.hidden_size == 4


def test_the_script_part_of_a_file_is_not_run():
    write(
        "net.py",
        "from torch import nn\ndef make(): return nn.GRU(1, 1)\nif __name__ == '__main__': raise SystemExit(1)",
    )
    assert isinstance(load_model("net.py:make"), nn.GRU)


# --- models: what is refused


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            "net.py",
            r"'net.py' does not name a factory.\nWrite net.py:NAME, where NAME is one of: Net, Models, make, make_sized\.",
        ),
        ("net.py:", r"'net.py:' does not name a factory.\nWrite net.py:NAME, where NAME is one of: Net"),
        ("net.py:make()", r"'net.py:make\(\)' does not name a factory.\nWrite net.py:NAME"),
        (
            "empty.py",
            r"'empty.py' does not name a factory.\nWrite empty.py:NAME, where NAME is a function that builds the network",
        ),
        (
            "resnet18",
            r"'resnet18' has no factory after a colon.\nWrite path/to/file.py:factory, package.module:factory or",
        ),
        ("", r"'' has no factory after a colon"),
        (":make", r"':make' has no file or module before the colon"),
        ("C:\\net.py", r"no factory after a colon"),
        ("net.py:make:again", r"'net.py:make' is neither a .py file nor the dotted name of a module"),
        ("nett.py:make", r"nett.py does not exist.\nDid you mean net.py\?"),
        ("quite_another.py:make", r"quite_another.py does not exist.\nThis folder holds: empty.py, net.py\."),
        ("zo/net.py:make", r"zo/net.py does not exist: there is no folder zo.\nCheck the path; it is relative to "),
        ("./net:make", r"./net does not exist.\nDid you mean ./net.py\?"),
        ("weights.pt:make", r"weights.pt is not a .py file.\nWrite path/to/file.py:factory"),
        ("zoo:make", r"zoo is a folder, not a .py file.\nName a file in it. zoo holds: inner.py\."),
        ("./zoo:make", r"./zoo is a folder, not a .py file.\nName a file in it. zoo holds: inner.py\."),
        ("odd.py:make", r"odd.py is a folder, not a file"),
    ],
)
def test_a_spec_that_names_no_file_says_what_is_there(spec, says):
    for name in ("net.py", "zoo/inner.py"):
        write(name, NET)
    for name in ("empty.py", "weights.pt", "odd.py/x.py"):
        write(name, "")
    assert re.search(says, refused(spec))


def test_the_names_offered_for_a_forgotten_factory_are_read_without_running_the_file():
    write("net.py", "from pathlib import Path\nPath('ran').touch()\ndef make(): ...")
    assert "one of: make." in refused("net.py")
    assert not Path("ran").exists()


def test_a_file_that_cannot_be_parsed_still_gets_the_advice_on_its_name():
    write("net.py", "def make(:")
    assert "where NAME is a function that builds the network" in refused("net.py")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            "no_such_thing:make",
            r"the module no_such_thing does not exist.\nInstall it, or run from its folder. This folder holds: mine",
        ),
        ("mime:make", r"the module mime does not exist.\n.*Did you mean mine\?"),
        ("mine.nett:make", r"the module mine.nett does not exist.\n.*Did you mean net\? mine holds: net\."),
        ("mine.net.deep:make", r"the module mine.net.deep does not exist.\n.*mine.net holds none"),
    ],
)
def test_a_module_that_does_not_exist_is_named_with_its_neighbours(spec, says):
    write("mine/__init__.py", "")
    write("mine/net.py", NET)
    assert re.search(says, refused(spec))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            "net.py:mkae",
            r"net.py does not define 'mkae'.\nDid you mean make\? It defines: Net, Models, make, make_sized, ready\.",
        ),
        ("net.py:nn2", r"net.py does not define 'nn2'.\n"),
        ("net.py:Models.large", r"net.py:Models does not define 'large'.\nIt defines: small\."),
        ("empty.py:make", r"empty.py does not define 'make'.\nIt defines none"),
        ("net.py:size", r"net.py:size is an object of type int.\nName a network, or a function that builds one"),
    ],
)
def test_an_attribute_that_is_no_factory_lists_the_candidates(spec, says):
    write("net.py", NET)
    write("empty.py", "")
    assert re.search(says, refused(spec))


def test_a_factory_with_required_arguments_is_told_which_and_what_to_write():
    message = refused(f"{write('net.py', NET)}:make_sized")
    assert "net.py:make_sized needs 3 arguments (inputs, hidden, layers), but a factory is called without arguments." in message
    assert "def make_model(): return make_sized(inputs=…, hidden=…, layers=…)" in message


def test_one_required_argument_is_singular():
    assert "needs 1 argument (n)," in refused(write("net.py", "def make(n): ...") + ":make")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return None", "returned None, not an nn.Module"),
        ("return {'a': 1}", "returned an object of type dict, not an nn.Module"),
        ("return nn.GRU", "returned the class GRU, not an nn.Module"),
        ("return nn.GRU(1, 1), 3", "returned an object of type tuple, not an nn.Module"),
    ],
)
def test_a_factory_that_returns_something_else_is_told_what(body, says):
    write("net.py", f"from torch import nn\ndef make(): {body}")
    assert says in refused("net.py:make")


def test_a_factory_that_raises_is_quoted_with_its_type_and_the_users_line():
    write(
        "net.py",
        "from torch import nn\n\ndef make():\n    hidden = 7\n    raise ValueError('hidden must be even, not 7.')",
    )
    says = "net.py:make failed: ValueError: hidden must be even, not 7 (net.py, line 5).\nCorrect that line"
    assert says in refused("net.py:make")


def test_an_error_inside_torch_is_put_on_the_users_line_and_not_on_torchs():
    write("net.py", "from torch import nn\ndef make():\n    return nn.GRU(3, -4)")
    assert re.search(r"net.py:make failed: ValueError: hidden_size must be .* \(net.py, line 3\)", refused("net.py:make"))


def test_a_long_message_over_many_lines_is_cut_to_one():
    write("net.py", "def make(): raise RuntimeError('\\n'.join(['missing key'] * 100))")
    message = refused("net.py:make")
    assert "RuntimeError: missing key missing key" in message
    assert "… (net.py, line 1)" in message


def test_an_error_without_words_still_has_its_type():
    assert "net.py:make failed: KeyError (net.py, line 1)." in refused(write("net.py", "def make(): raise KeyError") + ":make")


def test_a_builtin_that_does_not_say_its_arguments_is_called_and_judged_by_what_it_returns():
    assert "builtins:dict returned an object of type dict, not an nn.Module" in refused("builtins:dict")


def test_an_error_in_an_installed_factory_says_where_it_was_entered():
    assert re.search(r"torch.nn:GRU failed: TypeError: .*missing 2 required .*rnn.py, line \d+\)", refused("torch.nn:GRU"))


def test_a_module_that_raises_when_an_attribute_is_read_is_quoted():
    write("net.py", "def __getattr__(name): raise RuntimeError(f'no {name} today')")
    assert "RuntimeError: no make today (net.py, line 1)" in refused("net.py:make")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\ndef make(:\n", r"net.py cannot be imported: SyntaxError: .* \(net.py, line 2\).\nCorrect that line"),
        ("x = 1\n  y = 2\n", r"net.py cannot be imported: IndentationError: unexpected indent \(net.py, line 2\)"),
        (
            "import os\nimport no_such_library.part\n",
            r"ModuleNotFoundError: No module named 'no_such_library' \(net.py, line 2\).\nInstall no_such_library into",
        ),
        ("raise ModuleNotFoundError\n", r"ModuleNotFoundError \(net.py, line 1\).\nInstall it into this"),
        ("from math import no_such_name\n", r"ImportError: cannot import name 'no_such_name' .* \(net.py, line 1\)"),
        (
            "from .layers import x\n",
            r"attempted relative import .* \(net.py, line 1\).\nName the file as part of its package",
        ),
        ("x = 1\n\nx / 0\n", r"net.py cannot be imported: ZeroDivisionError: division by zero \(net.py, line 3\)"),
        (
            "import sys\nsys.exit(3)\n",
            r"it calls sys.exit\(3\) \(net.py, line 2\).\nMove the code of the script under `if __name__",
        ),
        ("import broken_sibling\n", r"SyntaxError: .* \(broken_sibling.py, line 1\)"),
        ("import failing_sibling\n", r"RuntimeError: no luck \(failing_sibling.py, line 2\)"),
    ],
)
def test_a_file_that_fails_to_import_shows_the_reason_and_the_line(text, says):
    write("broken_sibling.py", "def (")
    write("failing_sibling.py", "x = 1\nraise RuntimeError('no luck')")
    write("net.py", text)
    assert re.search(says, refused("net.py:make"))


def test_a_file_that_is_not_text_is_refused_like_a_syntax_error():
    Path("net.py").write_bytes(b"x = '\xff\xfe'\n")
    assert re.search(r"net.py cannot be imported: SyntaxError: .*utf-8", refused("net.py:make"))


def test_a_module_that_fails_to_import_blames_what_it_imports_and_not_itself():
    write("pack/__init__.py", "")
    write("pack/net.py", "import no_such_library")
    assert re.search(r"pack.net cannot be imported: .*'no_such_library' \(pack/net.py, line 1\)", refused("pack.net:make"))


def test_a_failed_import_leaves_nothing_behind():
    write("net.py", "raise RuntimeError('half way')")
    paths, modules = list(sys.path), {name for name in sys.modules if "separatrix_model_" in name}
    refused("net.py:make")
    assert sys.path == paths
    assert {name for name in sys.modules if "separatrix_model_" in name} == modules


def test_ctrl_c_in_a_factory_stays_ctrl_c():
    write("net.py", "def make(): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_model("net.py:make")


# --- torchvision

FAKE_MODELS = """
    from torch import nn

    class Fetched(Exception): ...

    def plain(*, weights="IMAGENET", progress=True):
        if weights is not None: raise Fetched
        return nn.Linear(2, 2)

    def segmenter(*, weights=None, weights_backbone="IMAGENET"):
        if weights_backbone is not None: raise Fetched
        return nn.Linear(3, 3)

    def gan(): return nn.Linear(4, 4)

    BUILDERS = {"plain": plain, "segmenter": segmenter, "gan": gan}
    def list_models(): return sorted(BUILDERS)
    def get_model_builder(name): return BUILDERS[name]
"""


@pytest.fixture
def fake_torchvision(monkeypatch):
    """A stand-in of the same interface, whose builders object to every default that would download."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend("site")

    def build(init: str = "") -> None:
        write("site/torchvision/__init__.py", init)
        write("site/torchvision/models.py", FAKE_MODELS)

    yield build
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


@pytest.mark.parametrize(("name", "width"), [("plain", 2), ("segmenter", 3), ("gan", 4)])
@pytest.mark.parametrize("location", ["torchvision", "torchvision.models"])
def test_no_torchvision_network_downloads_weights(fake_torchvision, location, name, width):
    fake_torchvision()
    assert load_model(f"{location}:{name}").in_features == width


def test_a_torchvision_name_that_is_not_there_is_answered_with_the_closest(fake_torchvision):
    fake_torchvision()
    assert refused("torchvision:plane").endswith("no network 'plane'.\nDid you mean plain? It has: gan, plain, segmenter.")


def test_torchvision_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    message = refused("torchvision:resnet18", MissingExtraError)
    assert "torchvision" in message
    assert "pip install 'separatrix[vision]'" in message


def test_torchvision_that_does_not_fit_this_torch_shows_its_own_reason(fake_torchvision):
    fake_torchvision("raise RuntimeError('operator torchvision::nms does not exist')")
    message = refused("torchvision:resnet18")
    assert f"with torch {torch.__version__}: RuntimeError: operator torchvision::nms does not exist.\nInstall" in message


def test_a_file_called_torchvision_is_a_file():
    write("torchvision.py", "from torch import nn\ndef make(): return nn.GRU(1, 1)")
    assert isinstance(load_model("torchvision.py:make"), nn.GRU)


@pytest.fixture
def torchvision_schemas():
    """On a CPU-only torch, torchvision's import wants two operators declared (design §9)."""
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def test_the_real_torchvision_builds_untrained_networks_offline(torchvision_schemas, monkeypatch):
    def fetched(*_, **__):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetched)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetched)
    assert load_model("torchvision:resnet18").fc.out_features == 1000
    assert isinstance(load_model("torchvision:lraspp_mobilenet_v3_large"), nn.Module)


# --- weights


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def weights_refused(model: nn.Module, path: str, kind: type[SeparatrixError] = ModelError) -> str:
    """The message, after checking that the network has not changed."""
    before = copy.deepcopy(model)
    with pytest.raises(kind) as caught:
        load_weights_(model, path)
    assert same(model, before)
    return in_two_lines(caught)


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_a_state_dict_loads_from_its_usual_places_and_under_its_usual_prefixes(key, prefix):
    trained, model = network(1), network(2)
    state = {prefix + name: tensor for name, tensor in trained.state_dict().items()}
    torch.save(state if key is None else {"epoch": 3, key: state, "loss": 0.1}, "w.pt")
    load_weights_(model, "w.pt")
    assert same(model, trained)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_safetensors_load(prefix):
    trained, model = network(1), network(2)
    save_file({prefix + name: tensor for name, tensor in trained.state_dict().items()}, "w.safetensors")
    load_weights_(model, Path("w.safetensors"))
    assert same(model, trained)


@pytest.mark.parametrize("prefix", ["model.", "net.", "model.module.", "_forward_module.module.", "lit.model._orig_mod."])
def test_one_prefix_of_all_names_is_stripped_and_said(prefix):
    """A training module keeps its network under a name of its own."""
    trained, model = network(1), network(2)
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in trained.state_dict().items()}, "epoch": 3}, "w.ckpt")
    note = load_weights_(model, "w.ckpt")
    assert same(model, trained)
    plain = prefix.replace("_orig_mod.", "")
    assert note == f"the prefix {plain!r} was stripped from all 9 names in the file"


def test_what_lies_outside_the_prefix_is_said():
    trained, model = network(1), network(2)
    state = {f"model.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": {**state, "criterion.weight": torch.ones(2)}}, "w.ckpt")
    note = load_weights_(model, "w.ckpt")
    assert same(model, trained)
    assert note.startswith("the prefix 'model.' was stripped from 9 of 10 names in the file")
    assert "1 other name not used (criterion.weight)" in note


def test_a_prefix_that_only_the_network_has_is_said():
    trained, model = network(1), network(2)
    torch.save({f"model.{name}": tensor for name, tensor in trained.state_dict().items()}, "w.pt")
    for names, note in (("net", "'model.' was stripped"), ("module", "'module.' was added to")):
        wrapped = nn.ModuleDict({names: copy.deepcopy(model)})
        assert note in load_weights_(wrapped, "w.pt")
        assert same(wrapped[names], trained)


def test_two_prefixes_that_both_fit_are_refused():
    """A network and its running average."""
    state = network(1).state_dict()
    torch.save({f"{lead}.{name}": tensor for lead in ("model", "ema") for name, tensor in state.items()}, "w.pt")
    message = weights_refused(network(2), "w.pt")
    assert "the file has all its tensors 2 times, with the prefixes 'ema.', 'model.'" in message


def test_a_misfit_behind_a_prefix_is_said_without_it_and_loads_nothing():
    state = {f"model.{name}": tensor for name, tensor in network(1).state_dict().items()}
    state["model.head.weight"] = torch.zeros(1)
    del state["model.2.bias"]
    torch.save({"state_dict": state}, "w.pt")
    message = weights_refused(network(2), "w.pt")
    assert "w.pt does not fit this Sequential, with the prefix 'model.', of 9 tensors: 1 missing (2.bias); 1 unexpected" in message


def test_names_that_differ_only_by_the_compilers_are_not_mixed_up():
    state = network(1).state_dict()
    state["0._orig_mod.weight"] = torch.zeros_like(state["0.weight"])
    torch.save(state, "w.pt")
    assert "1 unexpected (0._orig_mod.weight)" in weights_refused(network(2), "w.pt")


def test_load_model_says_which_prefix():
    torch.save({f"net.{name}": tensor for name, tensor in nn.GRU(3, 4).state_dict().items()}, "w.pt")
    write("net.py", "from torch import nn\ndef make(): return nn.GRU(3, 4)")
    said = []
    load_model("net.py:make", "w.pt", said.append)
    assert said == ["w.pt: the prefix 'net.' was stripped from all 4 names in the file."]


def test_prefixes_of_the_network_itself_are_ignored_too():
    trained, model = network(1), network(2)
    torch.save(trained.state_dict(), "w.pt")
    load_weights_(nn.DataParallel(model), "w.pt")
    assert same(model, trained)


def test_a_part_that_was_compiled_alone_loads():
    trained, model = network(1), network(2)
    torch.save({re.sub(r"^0\.", "0._orig_mod.", name): t for name, t in trained.state_dict().items()}, "w.pt")
    load_weights_(model, "w.pt")
    assert same(model, trained)


def test_a_modules_extra_state_is_loaded_with_its_tensors():
    class Counting(nn.Linear):
        count = 0

        def get_extra_state(self):
            return self.count

        def set_extra_state(self, state):
            self.count = state

    trained, model = Counting(2, 2), Counting(2, 2)
    trained.count = 7
    torch.save(trained.state_dict(), "w.pt")
    load_weights_(model, "w.pt")
    assert model.count == 7


def test_a_network_with_a_child_called_module_loads_its_own_state_dict():
    trained, model = nn.ModuleDict({"module": network(1)}), nn.ModuleDict({"module": network(2)})
    torch.save(trained.state_dict(), "w.pt")
    load_weights_(model, "w.pt")
    assert same(model, trained)


def test_old_files_of_torch_save_load():
    trained, model = network(1), network(2)
    torch.save(trained.state_dict(), "w.pth", _use_new_zipfile_serialization=False)
    load_weights_(model, "w.pth")
    assert same(model, trained)


def test_one_of_two_tied_tensors_is_enough():
    """As `safetensors.torch.save_model` writes them."""

    def tied(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
        model[1].weight = model[0].weight
        return model

    trained, model = tied(1), tied(2)
    save_file({"0.weight": trained[0].weight.detach()}, "w.safetensors")
    load_weights_(model, "w.safetensors")
    assert torch.equal(model[1].weight, trained[0].weight)


def test_weights_are_cast_to_the_networks_dtype_and_keep_its_parameters():
    trained, model = network(1).double(), network(2)
    parameters = list(model.parameters())
    torch.save(trained.state_dict(), "w.pt")
    load_weights_(model, "w.pt")
    assert all(p is q and p.dtype == torch.float32 for p, q in zip(model.parameters(), parameters, strict=True))
    assert same(model, trained.float())


def test_load_model_takes_weights():
    trained = nn.GRU(3, 4)
    torch.save(trained.state_dict(), "w.pt")
    write("net.py", "from torch import nn\ndef make(): return nn.GRU(3, 4)")
    assert same(load_model("net.py:make", Path("w.pt")), trained)


def test_the_global_generator_is_not_touched_by_loading():
    torch.save(network().state_dict(), "w.pt")
    model = network()
    before = torch.get_rng_state()
    load_weights_(model, "w.pt")
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_another_network_are_told_apart_by_name_and_shape():
    state = network().state_dict()
    state["0.weight"] = torch.zeros(4, 7)
    del state["2.bias"]
    state["head.weight"] = torch.zeros(1)
    torch.save(state, "w.pt")
    message = weights_refused(network(), "w.pt")
    assert "w.pt does not fit this Sequential of 9 tensors: 1 missing (2.bias); 1 unexpected (head.weight); " in message
    assert "1 of another shape (0.weight is (4, 7) in the file and (4, 3) in the model).\nBuild the network" in message


def test_of_many_names_that_do_not_fit_a_few_are_said_and_the_count():
    torch.save({f"layer{i}": torch.zeros(1) for i in range(50)}, "w.pt")
    assert "50 unexpected (layer0, layer1, layer2 and 47 more)" in weights_refused(network(), "w.pt")


def test_a_value_that_is_no_tensor_does_not_fit():
    torch.save({**network().state_dict(), "2.bias": [1.0, 2.0]}, "w.pt")
    assert "2.bias is list in the file and (2,) in the model" in weights_refused(network(), "w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value):
    state = network().state_dict()
    state["2.weight"][1, 3] = value
    torch.save(state, "w.pt")
    message = weights_refused(network(), "w.pt", InputError)
    assert "the weight 2.weight in w.pt has 1 numbers out of 8 that are not finite" in message


def test_a_number_too_large_for_the_networks_dtype_is_refused():
    state = network().double().state_dict()
    state["2.bias"][0] = 1e300
    torch.save(state, "w.pt")
    assert "2.bias in w.pt has 1 numbers out of 2" in weights_refused(network(), "w.pt", InputError)


def test_a_buffer_may_hold_infinity_but_not_nan():
    """An attention mask does."""

    def masked(value: float) -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_buffer("mask", torch.full((2, 2), value))
        return model

    torch.save(masked(-float("inf")).state_dict(), "w.pt")
    model = masked(0.0)
    load_weights_(model, "w.pt")
    assert torch.isneginf(model.mask).all()
    torch.save(masked(float("nan")).state_dict(), "w.pt")
    assert "mask in w.pt has 4 numbers out of 4" in weights_refused(masked(0.0), "w.pt", InputError)


class Malicious:
    """Runs a command when unpickled."""

    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_malicious_pickle_is_refused_and_not_run(protocol, recwarn, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    Path("w.pt").write_bytes(pickle.dumps({"0.weight": Malicious()}, protocol=protocol))
    weights_refused(network(), "w.pt")
    with pytest.raises(InputError):
        load_inputs("w.pt")
    assert not Path("executed").exists()
    assert not recwarn.list


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_of_torch_save_is_refused_with_the_name_it_wanted(zipped):
    torch.save({"0.weight": Malicious()}, "w.pt", _use_new_zipfile_serialization=zipped)
    message = weights_refused(network(), "w.pt")
    assert f"Python would have to run {os.name}.system" in message
    assert "torch.save(model.state_dict(), 'w.pt')" in message
    assert not Path("executed").exists()


def test_a_whole_network_pickled_is_refused_with_its_class():
    torch.save(nn.GRU(2, 3), "w.pt")
    assert "would have to run torch.nn.modules.rnn.GRU, but only plain tensors" in weights_refused(network(), "w.pt")


def test_a_pickle_that_torch_did_not_write_is_refused_as_that():
    Path("w.pt").write_bytes(pickle.dumps({"a": 1.0}, protocol=4))
    assert "it is a pickle that torch.save did not write" in weights_refused(network(), "w.pt")


def test_a_torchscript_archive_is_refused_as_that():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 3)).save("w.pt")
    assert "it is a TorchScript archive, which holds code" in weights_refused(network(), "w.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 3, "net": {"a": torch.zeros(1)}}, "expected w.pt to hold a state dict, got a dict with the keys epoch, net."),
        (torch.zeros(3), "expected w.pt to hold a state dict, got a Tensor."),
        ({}, "expected w.pt to hold a state dict, got a dict with the keys ."),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_holds(content, says):
    torch.save(content, "w.pt")
    assert says in weights_refused(network(), "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"PK\x03\x04 and no more", b"\x80\x02"])
def test_a_damaged_file_of_weights_is_refused(name, content):
    Path(name).write_bytes(content)
    message = weights_refused(network(), name)
    assert re.search(rf"{name} is (not a|refused)", message)


def test_half_a_checkpoint_is_refused():
    torch.save(network().state_dict(), "whole.pt")
    whole = Path("whole.pt").read_bytes()
    Path("w.pt").write_bytes(whole[: len(whole) // 2])
    assert "w.pt is not a file written by torch.save, or is damaged" in weights_refused(network(), "w.pt")


@pytest.mark.parametrize("name", ["wieghts.pt", "no/weights.pt", "folder"])
def test_weights_that_are_not_there_say_what_is(name):
    write("weights.pt", "")
    Path("folder").mkdir()
    message = weights_refused(network(), name)
    assert {"wieghts.pt": "Did you mean weights.pt?", "no/weights.pt": "no folder no", "folder": "a folder"}[name] in message


# --- inputs


def inputs_refused(path: str) -> str:
    with pytest.raises(InputError) as caught:
        load_inputs(path)
    return in_two_lines(caught)


def assert_is(tensor: Tensor, dtype: torch.dtype, values: object) -> None:
    assert tensor.dtype == dtype
    assert torch.equal(tensor, torch.as_tensor(values, dtype=dtype))


@pytest.mark.parametrize(
    ("saved", "dtype"),
    [
        ("float64", torch.float64),
        ("float32", torch.float32),
        ("float16", torch.float16),
        (">f8", torch.float64),
        ("longdouble", torch.float64),
        ("int64", torch.int64),
        (">i4", torch.int64),
        ("uint8", torch.int64),
        ("uint64", torch.int64),
        ("bool", torch.float64),
    ],
)
def test_arrays_keep_their_numbers_and_integers_become_int64(saved, dtype):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(saved)
    np.save("x.npy", np.asfortranarray(array))
    assert_is(load_inputs("x.npy"), dtype, array.astype(float))


def test_a_npz_of_one_array_needs_no_name():
    np.savez("x.npz", anything=np.ones((3, 2)))
    assert_is(load_inputs(Path("x.npz")), torch.float64, np.ones((3, 2)))


def test_an_array_of_several_is_named_after_a_colon():
    np.savez_compressed("x.npz", train=np.ones((3, 2)), test=np.zeros(4))
    assert_is(load_inputs("x.npz:test"), torch.float64, np.zeros(4))
    assert inputs_refused("x.npz") == "x.npz holds 2 arrays: train, test.\nName one: x.npz:train"
    assert inputs_refused("x.npz:tets") == "x.npz has no array 'tets'.\nDid you mean test? It holds: train, test."


def test_an_empty_npz_is_refused():
    np.savez("x.npz")
    assert "x.npz holds 0 arrays" in inputs_refused("x.npz")


def test_a_file_whose_own_name_has_the_colon_is_that_file():
    np.save("x.npz:1.npy", np.ones(2))
    assert_is(load_inputs("x.npz:1.npy"), torch.float64, np.ones(2))


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        (torch.ones(3, 2), torch.float32),
        (nn.Parameter(torch.ones(3, 2, dtype=torch.float64)), torch.float64),
        (torch.ones(3, 2, dtype=torch.bfloat16), torch.bfloat16),
        (torch.ones(3, 2, dtype=torch.int32), torch.int64),
        (torch.ones(3, 2, dtype=torch.bool), torch.float64),
        (torch.ones(3, 2).to_sparse(), torch.float32),
    ],
)
def test_a_tensor_is_read_without_its_graph(tensor, dtype):
    torch.save(tensor, "x.pt")
    loaded = load_inputs("x.pt")
    assert_is(loaded, dtype, torch.ones(3, 2))
    assert not loaded.requires_grad


@pytest.mark.parametrize(
    ("text", "dtype", "values"),
    [
        ("1.5,2\n3,4\n", torch.float64, [[1.5, 2], [3, 4]]),
        ("1,2\n-3,+4\n", torch.int64, [[1, 2], [-3, 4]]),
        ("a,b\n1,2\n3,4\n", torch.int64, [[1, 2], [3, 4]]),
        ("\ufeffa,b\r\n1e-3, 2\r\n\r\n3,4\r\n", torch.float64, [[1e-3, 2], [3, 4]]),
        ('"first, x","b"\n"1.0","2.0"\n', torch.float64, [[1, 2]]),
        ("7\n8\n9", torch.int64, [[7], [8], [9]]),
        ("9007199254740993,1\n", torch.float64, [[9007199254740992, 1]]),
    ],
)
def test_a_csv_is_a_row_a_time_step_with_or_without_a_header(text, dtype, values):
    Path("x.csv").write_bytes(text.encode())
    assert_is(load_inputs("x.csv"), dtype, values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n3,x\n", "x.csv, line 3, column 2: 'x' is not a number.\nAfter an optional header"),
        ("1,2\n\n3,\n", "x.csv, line 3, column 2: the cell is empty"),
        ("time,0,1\n1,2,3\n", "x.csv, line 1, column 1: 'time' is not a number"),
        (",a,b\n0,1,2\n", "x.csv, line 1, column 1: the cell is empty"),
        ("a,b\nc,d\n1,2\n", "x.csv, line 2, column 1: 'c' is not a number"),
        ("1;2\n3;4\n", "x.csv, line 2, column 1: '3;4' is not a number.\n.*separated by commas"),
        ("a,b\n1,2\n3,4,5\n", "x.csv: line 3 has 3 values, but line 1 has 2"),
        ("a,b\n1,2,3\n", "x.csv: line 2 has 3 values, but line 1 has 2"),
        ("", "x.csv holds no numbers"),
        ("a,b\n", "x.csv holds no numbers"),
        ("1,nan\n", r"1 of 2 numbers of the inputs in x.csv are not finite, the first at \[0, 1\]"),
    ],
)
def test_a_csv_that_is_not_a_table_of_numbers_is_refused_with_line_and_column(text, says):
    Path("x.csv").write_text(text)
    assert re.search(says, inputs_refused("x.csv"))


@pytest.mark.parametrize("content", [b"1,2\n\xff\xfe,3\n", "1,2\n".encode("utf-16")])
def test_a_csv_in_another_encoding_is_refused(content):
    Path("x.csv").write_bytes(content)
    assert "x.csv is not text in UTF-8" in inputs_refused("x.csv")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([1, "a", None], dtype=object), "x.npy holds Python objects, not numbers"),
        (np.array([Malicious()], dtype=object), "x.npy holds Python objects, not numbers"),
        (np.array(["1", "2"]), "x.npy holds text (<U1), not numbers"),
        (np.array([b"ab"]), "x.npy holds text (|S2), not numbers"),
        (np.array(["2026-01-01"], dtype="datetime64[D]"), "x.npy holds dates (datetime64[D]), not numbers"),
        (np.zeros(2, dtype=[("t", "f8"), ("x", "f8")]), "x.npy holds records"),
        (np.ones(2, dtype=complex), "the inputs in x.npy: expected real numbers, got complex128"),
        (np.zeros((0, 3)), "the inputs in x.npy are empty: shape (0, 3)"),
        (np.array([[1.0, np.nan], [np.inf, 0.0]]), "2 of 4 numbers of the inputs in x.npy are not finite, the first at [0, 1]"),
        (np.array([2**63], dtype=np.uint64), "x.npy holds integers up to 9223372036854775808, beyond the range of int64"),
    ],
)
def test_an_array_that_is_not_finite_real_numbers_is_refused(array, says):
    np.save("x.npy", array, allow_pickle=True)
    assert says in inputs_refused("x.npy")
    assert not Path("executed").exists()


def test_an_object_array_in_a_npz_is_refused():
    np.savez("x.npz", good=np.ones(2), bad=np.array([Malicious()], dtype=object))
    assert "x.npz holds Python objects, not numbers" in inputs_refused("x.npz:bad")
    assert_is(load_inputs("x.npz:good"), torch.float64, np.ones(2))
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("content", [b"", b"hello, world", b"PK\x03\x04 and no more", pickle.dumps([1.0])])
def test_a_damaged_array_file_is_refused(name, content):
    Path(name).write_bytes(content)
    assert f"{name} is not a NumPy file, or is damaged" in inputs_refused(name)


def test_half_an_array_is_refused():
    np.save("whole.npy", np.ones(100))
    Path("x.npy").write_bytes(Path("whole.npy").read_bytes()[:300])
    assert "x.npy is not a NumPy file, or is damaged" in inputs_refused("x.npy")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"x": torch.ones(2), "y": torch.ones(2)},
            "x.pt holds a dict with the keys x, y, not a tensor.\nSave the inputs alone",
        ),
        ([torch.ones(2)], "x.pt holds a list, not a tensor"),
        (np.ones(2), "would have to run numpy._core.multiarray._reconstruct"),
        (torch.tensor([1.0, float("nan")]), "1 of 2 numbers of the inputs in x.pt are not finite"),
    ],
)
def test_a_pt_file_that_is_not_one_tensor_of_numbers_is_refused(content, says):
    torch.save(content, "x.pt")
    assert says in inputs_refused("x.pt")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("data.mat", "the format of data.mat is not supported.\nSave the inputs as one of .npy, .npz, .pt, .pth, .csv."),
        ("data", "the format of data is not supported."),
        ("dta.npy", "dta.npy does not exist.\nDid you mean data.npy?"),
        ("no/data.npy", "no/data.npy does not exist: there is no folder no.\nCheck the path; it is relative to "),
        ("/no/such/data.npy", "/no/such/data.npy does not exist: there is no folder /no/such.\nCheck the path."),
        ("data.npz:x", "data.npz does not exist.\nDid you mean data.npy?"),
        ("zzz.csv", "zzz.csv does not exist.\nThis folder holds no .csv files."),
        ("folder.npy", "folder.npy is a folder, not a file"),
    ],
)
def test_inputs_that_are_not_there_say_what_is(name, says):
    for file in ("data.mat", "data", "data.npy", "folder.npy/x.npy"):
        write(file, "")
    assert says in inputs_refused(name)


def test_a_file_that_the_system_will_not_open_says_so(monkeypatch):
    def locked(*_, **__):
        raise PermissionError(13, "Permission denied")

    np.save("x.npy", np.ones(2))
    torch.save(network().state_dict(), "w.pt")
    monkeypatch.setattr(np, "load", locked)
    monkeypatch.setattr(torch, "load", locked)
    assert "w.pt cannot be read: Permission denied.\nCheck its permissions" in weights_refused(network(), "w.pt")
    assert "x.npy cannot be read: Permission denied.\nCheck its permissions" in inputs_refused("x.npy")


# --- several arguments


def test_a_npz_of_several_arrays_gives_them_by_name():
    np.savez("all.npz", x=np.ones((4, 3)), lengths=np.array([2, 3], dtype=np.int32), mask=np.array([True, False]))
    found = load_arguments(["all.npz"])
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "x": torch.float64,
        "lengths": torch.int64,
        "mask": torch.bool,
    }
    assert load_arguments(["all.npz:x"]).shape == (4, 3)


@pytest.mark.parametrize(
    "content",
    [(torch.ones(2), torch.zeros(3)), {"x": torch.ones(2), "state": None, "power": 2}, [torch.ones(4, 2), torch.ones(3, 2)]],
)
def test_a_pt_gives_the_tuple_dict_or_list_that_was_saved(content):
    torch.save(content, "x.pt")
    found = load_arguments([Path("x.pt")])
    assert type(found) is type(content)
    assert str(found) == str(content)


def test_several_files_are_a_tuple_and_one_is_as_ever():
    np.save("x.npy", np.ones((4, 3), dtype=np.float32))
    np.save("tokens.npy", np.array([1, 2], dtype=np.int16))
    x, tokens = load_arguments(["x.npy", Path("tokens.npy")])
    assert (x.dtype, tokens.dtype) == (torch.float32, torch.int64)
    assert torch.equal(load_arguments(["x.npy"]), load_inputs("x.npy"))
