"""What models take: tensors, tuples, dictionaries, packed sequences, lists of sequences, and modules inside wrappers."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import separatrix as sx
from separatrix.core.arguments import Arguments, arguments_of
from separatrix.core.structure import leaves, mapped, refilled
from separatrix.core.wrappers import bare, part_named, unwrapped

Pair = namedtuple("Pair", "h c")


@dataclass
class Batch:
    """As data loaders of one's own hand out."""

    x: Tensor
    name: str = "trial"


class Tagger(nn.Module):
    """Tokens and an initial state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 3)
        self.rnn = nn.GRU(3, 5, batch_first=True)

    def forward(self, tokens: Tensor, hidden: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """The outputs."""
        return self.rnn(self.embedding(tokens), hidden)[0]


class OneHot(nn.Module):
    """Tokens without a table."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(9, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """The outputs."""
        return self.rnn(nn.functional.one_hot(tokens, 9).float())[0]


class FromDict(nn.Module):
    """One argument, a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 5)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The outputs."""
        return self.rnn(batch["x"])[0]


class Packing(nn.Module):
    """A list of sequences, which it packs itself."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 5)

    def forward(self, sequences: list[Tensor]) -> Tensor:
        """The last state."""
        return self.rnn(pack_sequence(list(sequences), enforce_sorted=False))[1]


class PassesOn(nn.Module):
    """A wrapper as training loops write them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: object, **kwargs: object) -> object:
        """The module's answer."""
        return self.module(*args, **kwargs)


class Halves(nn.Module):
    """No wrapper, though it looks like one: it does more than pass on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Half of the model's answer."""
        return self.model(x) / 2


def trials(*lengths: int, inputs: int = 3) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(length, inputs, generator=draw) for length in lengths]


def test_an_array_becomes_one_argument_in_the_models_precision():
    (one,) = arguments_of(nn.GRU(3, 5), np.zeros((4, 2, 3)))
    assert one.args[0].dtype == torch.float32
    assert one.shapes == "(4, 2, 3), torch.float32"


def test_a_tuple_is_several_arguments_and_what_is_no_tensor_stays():
    (one,) = arguments_of(Tagger(), (np.arange(8).reshape(2, 4), None, [4, 4]))
    tokens, hidden, lengths = one.args
    assert (tokens.dtype, hidden, lengths.dtype) == (torch.int64, None, torch.int64)
    assert one.call(Tagger()).shape == (2, 4, 5)


def test_a_dict_is_named_arguments_where_its_keys_are_the_forwards():
    (one,) = arguments_of(Tagger(), {"tokens": torch.zeros(2, 4, dtype=torch.int32), "hidden": torch.zeros(1, 2, 5).double()})
    assert one.args == ()
    assert one.kwargs["tokens"].dtype == torch.int32
    assert one.kwargs["hidden"].dtype == torch.float32


def test_a_dict_of_other_keys_is_one_argument_of_its_class():
    for kind in (dict, OrderedDict, UserDict):
        (one,) = arguments_of(FromDict(), kind(x=torch.zeros(4, 2, 3).double(), note="first"))
        assert type(one.args[0]) is kind
        assert one.args[0]["note"] == "first"
        assert one.call(FromDict()).shape == (4, 2, 5)


def test_a_misspelt_name_is_said():
    with pytest.raises(sx.errors.InputError, match="forward has no argument 'hiden'"):
        arguments_of(Tagger(), {"tokens": torch.zeros(2, 4).long(), "hiden": torch.zeros(1, 2, 5)})


def test_whole_numbers_stay_whole_where_the_model_takes_them_so():
    whole = torch.zeros(4, 2, dtype=torch.int64)
    assert arguments_of(Tagger(), whole)[0].args[0].dtype == torch.int64
    assert arguments_of(OneHot(), whole)[0].args[0].dtype == torch.int64
    assert arguments_of(nn.GRU(2, 5), whole)[0].args[0].dtype == torch.float32


def test_truth_values_and_complex_numbers_stay():
    class Masked(nn.Linear):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return super().forward(x) * mask

    (one,) = arguments_of(Masked(3, 3), (torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bool)))
    assert [t.dtype for t in one.tensors()] == [torch.float32, torch.bool]
    (one,) = arguments_of(nn.Linear(3, 3, dtype=torch.complex128), torch.zeros(2, 3, dtype=torch.complex64))
    assert one.args[0].dtype == torch.complex128


def test_packed_sequences_dataclasses_and_named_tuples_are_one_argument():
    (packed,) = arguments_of(nn.GRU(3, 5), pack_sequence([t.double() for t in trials(4, 3)]))
    assert isinstance(packed.args[0], PackedSequence)
    assert packed.args[0].data.dtype == torch.float32
    (batch,) = arguments_of(nn.Linear(3, 3), Batch(torch.zeros(2, 3).double()))
    assert isinstance(batch.args[0], Batch)
    assert (batch.args[0].x.dtype, batch.args[0].name) == (torch.float32, "trial")
    (pair,) = arguments_of(nn.Linear(3, 3), Pair(torch.zeros(2, 3).double(), torch.ones(2)))
    assert isinstance(pair.args[0], Pair)


@pytest.mark.parametrize("batch_first", [False, True])
def test_unequal_sequences_are_given_one_by_one_along_the_batch_axis(batch_first):
    """A batch of one lies where the layer's batch lies, also inside a model that does not say so."""
    layer = nn.GRU(3, 5, batch_first=batch_first)
    for model in (layer, Halves(nn.Sequential(layer, FirstOf()))):
        calls = arguments_of(model, trials(4, 7, 5))
        assert [call.args[0].shape for call in calls] == [(1, n, 3) if batch_first else (n, 1, 3) for n in (4, 7, 5)]


class FirstOf(nn.Module):
    """The first of what came before."""

    def forward(self, both: tuple[Tensor, ...]) -> Tensor:
        """The first."""
        return both[0]


def test_equal_sequences_are_a_batch():
    (one,) = arguments_of(nn.GRU(3, 5), trials(6, 6, 6, 6))
    assert one.args[0].shape == (6, 4, 3)


def test_a_model_that_packs_reads_a_list():
    calls = arguments_of(Packing(), trials(4, 2, 3))
    together = Packing()
    state = torch.cat([call.call(together) for call in calls], dim=1)
    torch.testing.assert_close(state, together(trials(4, 2, 3)))


def test_numbers_that_are_not_finite_are_refused_by_argument_and_index():
    bad = torch.zeros(1, 2, 5)
    bad[0, 1, 3] = torch.nan
    with pytest.raises(sx.errors.InputError, match=r"1 of 10 numbers of the argument 'hidden' .* first at \[0, 1, 3\]"):
        arguments_of(Tagger(), (torch.zeros(2, 4).long(), bad))
    with pytest.raises(sx.errors.InputError, match=r"1 of 3 numbers of sequence 1 of the inputs"):
        arguments_of(nn.GRU(3, 5), [torch.zeros(4, 3), torch.tensor([[0.0, torch.inf, 0.0]])])


def test_a_mask_of_minus_infinity_passes_beside_other_arguments():
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    (one,) = arguments_of(nn.TransformerEncoderLayer(4, 2, 8), (torch.zeros(4, 2, 4), mask))
    assert one.call(nn.TransformerEncoderLayer(4, 2, 8)).shape == (4, 2, 4)


def test_text_and_nothing_are_refused():
    for given, said in (("abc", "cannot be read as numbers"), ((), "got nothing"), (np.zeros((0, 3)), "are empty")):
        with pytest.raises(sx.errors.InputError, match=said):
            arguments_of(nn.Linear(3, 3), given)


def test_with_tensors_is_the_inverse_of_tensors():
    given = Arguments(
        (pack_sequence(trials(4, 3)), [torch.ones(2), None], Pair(torch.ones(1), {"b": torch.zeros(1)})), {"k": "word"}
    )
    other = given.with_tensors([2 * t for t in given.tensors()])
    assert isinstance(other.args[0], PackedSequence)
    assert isinstance(other.args[2], Pair)
    assert other.kwargs == {"k": "word"}
    for twice, once in zip(other.tensors(), given.tensors(), strict=True):
        torch.testing.assert_close(twice, 2 * once)


def test_a_mapping_filled_in_another_order_is_alike():
    one, two = {"h": torch.zeros(1), "c": torch.ones(1)}, {"c": torch.ones(1), "h": torch.zeros(1)}
    assert [t.item() for t in leaves(one)] == [t.item() for t in leaves(two)]
    assert list(refilled(one, iter(leaves(two)))) == ["h", "c"]
    assert mapped(lambda t: t + 1, two)["h"] == 1


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, PassesOn, lambda m: PassesOn(PassesOn(torch.compile(m)))])
def test_a_wrapper_is_taken_off_without_compiling(wrap):
    inner = nn.GRU(3, 5)
    assert unwrapped(wrap(inner)) is inner


def test_what_does_more_than_pass_on_is_no_wrapper():
    model = Halves(nn.Linear(3, 3))
    assert unwrapped(model) is model
    assert bare(model) is model


def test_a_compiled_part_is_taken_off_inside_a_model_and_tensors_are_shared():
    inner = nn.Linear(3, 3)
    model = nn.Sequential(torch.compile(inner), nn.ReLU())
    seen = bare(model)
    assert [name for name, _ in seen.named_modules()] == ["", "0", "1"]
    assert seen[0].weight is inner.weight


def test_a_part_is_found_with_or_without_a_wrappers_prefix():
    model = Tagger()
    assert part_named(model, "module._orig_mod.rnn") == "rnn"
    assert part_named(Halves(model), "rnn") == "model.rnn"
    assert part_named(Halves(torch.compile(model)), "rnn") == "model._orig_mod.rnn"
    assert part_named(model, "lstm") is None
