"""Training as a dynamical system: parameters are the state, the optimiser is the map."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from separatrix.core.checks import check_seed
from separatrix.core.errors import InputError, UnsupportedModuleError
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System
from separatrix.core.wrappers import bare
from separatrix.training.batches import Batches, as_batches
from separatrix.training.elementwise import elementwise
from separatrix.training.layout import Parameter, Segment, counters, layout_of, trained
from separatrix.training.objective import Loss, Objective
from separatrix.training.optimizers import rule_of
from separatrix.training.optimizers.rule import Settings, descended
from separatrix.training.schedule import Constant, Scheduled
from separatrix.training.trial import check_loss

Scale = Callable[[Tensor], Tensor]


def _unchanged(size: Tensor) -> Tensor:
    return size


class Training(System):
    r"""The training of a network as a map of its parameters and the optimiser's state,  (θ, s)_{n+1} = F(∇L_n(θ_n), θ_n, s_n).

    The map is that of a `torch.optim` optimiser, with its groups and options: SGD (momentum, dampening, Nesterov, weight decay),
    Adam, AdamW (and AMSGrad), NAdam, RMSprop (centred, momentum) and Adagrad. The model and the optimiser are read and never
    changed. A run starts from where they are now: parameters, moments and step counters, so that a training can be measured from
    its middle. Tangents go through the whole map, with Hessian-vector products, and include those of the second moments.

    The model is trained in the mode in which it is given. Where it is in training mode, BatchNorm uses the statistics of the batch
    (the running ones do not act on the parameters and are not computed), and dropout's masks are a function of the step and the
    seed. In evaluation mode, BatchNorm's statistics are fixed and nothing is dropped.

    Args:
        model: the module. Parameters that are not in the optimiser, or do not require a gradient, are constants.
        loss: (outputs, targets) ↦ a number, such as `nn.CrossEntropyLoss()`.
        data: (inputs, targets), all of which each step takes, or `sx.training.Batches`. The inputs are a tensor, a tuple of
            positional arguments, or a dictionary of keyword arguments.
        optimizer: an instance of a class of `torch.optim` with parameters of the model.
        schedule: a learning-rate scheduler of that optimiser. A copy of it is stepped, and its options become a table.
        schedule_every: number of steps between two of the scheduler: 1, or `batches.per_epoch` for one that is stepped each epoch.
        seed: seed of the masks of dropout.

    Attributes:
        lr: without a schedule, the learning rate is a parameter, so that `at(lr=…)` and a sweep over `"lr"` vary it; with several
            parameter groups, `lr_0`, `lr_1`, ….

    Raises:
        UnsupportedModuleError: the optimiser's map is not known, or it needs more than one gradient in a step (LBFGS).
        InputError: the loss is not one finite number; a trained parameter has no gradient; the loss or the model uses parameters
            past the model's own attributes, so that their gradient would be incomplete.
        ModelError: the model or the loss fails on the data.

    Limits: a state follows the dtype of x0, float64 by default; in float32 exponents and curvatures below about 1e-4 of the
        largest are rounding. PyTorch keeps NAdam's product of momenta in float32 (unless float64 is the default dtype), which
        moves its steps by 1e-7. Hooks of parameters, gradient clipping and gradient scaling are not part of the map.
    Source: the formulas of `torch.optim`; tangents as Pearlmutter 1994, Neural Comput. 6, 147.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)  # ½ (w x − y)² at x = 1 has curvature 1
        >>> _ = nn.init.constant_(model.weight, 3.0)
        >>> training = sx.Training(model, lambda y, t: (y - t).square().mean() / 2, (torch.ones(1, 1), torch.ones(1, 1)),
        ...                        torch.optim.SGD(model.parameters(), lr=0.5))
        >>> sx.trajectory(training, steps=3)[:, 0]
        tensor([3.0000, 2.0000, 1.5000, 1.2500], dtype=torch.float64)
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: tuple[Any, Any] | Batches,
        optimizer: Optimizer,
        *,
        schedule: Any = None,
        schedule_every: int = 1,
        seed: int = 0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise UnsupportedModuleError(f"expected an nn.Module as model, got a {type(model).__name__}.")
        model, rule = bare(model), rule_of(optimizer)
        layout = layout_of(model, optimizer, rule)
        steps = Constant(optimizer) if schedule is None else Scheduled(optimizer, schedule, schedule_every)
        super().__init__(layout.dim, horizon=steps.horizon)
        self.rule, self.layout, self.steps = rule, layout, steps
        self.model_name, self.optimizer_name = type(model).__name__, type(optimizer).__name__
        parameters = {name: p for name, (_, _, p) in trained(model, optimizer).items()}
        names = {id(p): name for name, p in parameters.items()}
        self.objective = Objective(model, loss, parameters, check_seed(seed))
        self.batches = as_batches(data)
        self.names = {name: names[id(p)] for name, p in model.named_parameters(remove_duplicate=False) if id(p) in names}
        self.others = {name: value.detach() for name, value in model.state_dict().items() if name not in self.names}
        self.groups = [{k: v for k, v in group.items() if k != "param_names"} for group in optimizer.state_dict()["param_groups"]]
        self.rates: tuple[str, ...] = ()
        if schedule is None:
            groups = steps(0)
            self.rates = ("lr",) if len(groups) == 1 else tuple(f"lr_{i}" for i in range(len(groups)))
            self.hold(**{name: group["lr"] for name, group in zip(self.rates, groups, strict=True)})
        self.register_buffer("begun", self.pack((model.state_dict(), optimizer.state_dict())), persistent=False)
        self.objective.draws = check_loss(self.objective, self.batches, parameters)

    @property
    def autonomous(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether every step is the same map: all data, constant options, no draws, and no bias correction."""
        constant = type(self.steps) is Constant and self.batches.per_epoch == 1 and not self.objective.draws
        return constant and not any(self.rule.timed(o) for o in self.settings(0))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The parameters and the optimiser's state after step n, shape (*batch, dim) → (*batch, dim)."""
        return self.advanced(x, self.objective.gradient(x[..., : self.layout.size], self.batches(n), n), n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The step and its derivative: Hessian-vector products, then the slopes of the optimiser's map, number by number."""
        data, size = self.batches(n), self.layout.size
        gradient, turned = self._tangents(lambda y: self.objective.gradient(y, data, n), x[..., :size], v[..., :size])
        theta, slots, pushed = [], [], torch.zeros_like(v)
        for segment, o in zip(self.layout.segments, self.settings(n), strict=True):
            p, *state = self._mapped_along(segment, o, (x, gradient), (v, turned), pushed)
            theta.append(p)
            slots.append(dict(zip(segment.slots, state, strict=True)))
        return self.layout.joined(theta, slots), pushed

    @property
    def has_own_tangents(self) -> bool:
        """No: they are automatic derivatives, of the loss and of the optimiser's map, one after the other."""
        return False

    def advanced(self, x: Tensor, gradient: Tensor, n: int, scale: Scale = _unchanged) -> Tensor:
        """The step with a given gradient, (*batch, parameters), and a function of what the updates are divided by."""
        theta, slots = [], []
        for segment, o in zip(self.layout.segments, self.settings(n), strict=True):
            o.scale = scale
            p, *state = (x[..., places] for places in self.layout.places(segment))
            state = dict(zip(segment.slots, state, strict=True))
            p, *after = self._mapped(p, gradient[..., segment.start : segment.stop], state, o)
            theta.append(p)
            slots.append(dict(zip(segment.slots, after, strict=True)))
        return self.layout.joined(theta, slots)

    def _mapped(self, p: Tensor, g: Tensor, state: dict[str, Tensor], o: Settings) -> tuple[Tensor, ...]:
        """The next parameters and optimiser's state of a segment, in the order of its slots."""
        after, held = self.rule.update(p, descended(p, g, o), state, o)
        return after, *(held[name] for name in state)

    def _mapped_along(
        self, segment: Segment, o: Settings, values: tuple[Tensor, Tensor], tangents: tuple[Tensor, Tensor], pushed: Tensor
    ) -> tuple[Tensor, ...]:
        """`_mapped` from the state and the gradient; its derivative along tangents of both is added to those of the segment."""
        first, *rest = self.layout.places(segment)
        here = slice(segment.start, segment.stop)

        def mapped(p: Tensor, g: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            return self._mapped(p, g, dict(zip(segment.slots, state, strict=True)), o)

        arguments, along = (
            (state[..., first], gradient[..., here], *(state[..., place] for place in rest))
            for state, gradient in (values, tangents)
        )
        moving = (*arguments, *along, o.lr)
        keeps_graph = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in moving)
        return elementwise(mapped, arguments, along, pushed, (first, *rest), keeps_graph=keeps_graph)

    def settings(self, n: int) -> list[Settings]:
        """The options of each segment at step n; a rate that varies over the batch has an axis of length 1 more."""
        groups = self.steps(n)
        made = []
        for segment in self.layout.segments:
            o = SimpleNamespace(**groups[segment.group], t=segment.taken + n + 1, scalars=segment.scalars, scale=_unchanged)
            if self.rates:
                rate = getattr(self, self.rates[segment.group])
                o.lr = rate[..., None] if isinstance(rate, Tensor) and rate.ndim else rate
            made.append(o)
        return made

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """The state of the model and the optimiser when this object was built; in a batch, the parameters are scattered by 1 %."""
        start = self.begun.double().expand(*batch, self.dim).clone()
        if batch:
            noise = torch.randn(*batch, self.layout.size, dtype=torch.float64, generator=torch_generator(seed, "initial state"))
            size = start[..., : self.layout.size].abs().mean()
            start[..., : self.layout.size] += 0.01 * size * noise.to(start.device)
        return start

    def pack(self, state: tuple[dict[str, Any], dict[str, Any] | None]) -> Tensor:
        """The state's vector from the `state_dict` of the model and that of the optimiser (None: before its first step).

        Raises:
            InputError: the counters of the optimiser's state are not those of step 0 of this training.
        """
        model, optimizer = state
        saved = {} if optimizer is None else optimizer["state"]
        theta = [torch.cat([model[p.name].detach().flatten() for p in self.layout.of(s)]) for s in self.layout.segments]
        return self.layout.joined(theta, [self._slots(s, theta[i], saved) for i, s in enumerate(self.layout.segments)])

    def unpack(self, x: Tensor, n: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
        """The `state_dict` of the model and that of the optimiser at the state x before step n; batch axes come first."""
        held: dict[int, dict[str, Tensor]] = {}
        theta: dict[str, Tensor] = {}
        for segment, o in zip(self.layout.segments, self.settings(n - 1), strict=True):
            counted = self.rule.counted(o)
            for p in self.layout.of(segment):
                theta[p.name] = x[..., p.start : p.stop].reshape(*x.shape[:-1], *p.shape)
                slots = {name: x[..., self.layout.place(p, segment, name)] for name in segment.slots}
                if o.t > 0 and (slots or counted):  # before its first step an optimiser has no state
                    held[p.number] = {name: slot.reshape(*x.shape[:-1], *p.shape).clone() for name, slot in slots.items()}
                    held[p.number] |= {name: torch.tensor(float(value)) for name, value in counted.items()}
        options = self.steps(n)
        groups = [group | {k: v for k, v in options[i].items() if k in group} for i, group in enumerate(self.groups)]
        return {**self.others, **{name: theta[own] for name, own in self.names.items()}}, {"state": held, "param_groups": groups}

    def _slots(self, segment: Segment, theta: Tensor, saved: dict[int, dict[str, Any]]) -> dict[str, Tensor]:
        """The optimiser's state of a segment: what was saved, or that before the first step."""
        parameters = self.layout.of(segment)
        for p in parameters:
            taken = counters(saved.get(p.number, {}))[0]
            if taken != segment.taken:
                raise InputError(
                    f"the optimiser's state of {p.name} was saved after {taken} steps, but step 0 of this training comes after "
                    f"{segment.taken}.\nLoad it into the optimiser (load_state_dict) and build sx.Training from that."
                )
        start = self.rule.start(SimpleNamespace(**self.steps(0)[segment.group]))

        def held(p: Parameter, name: str) -> Tensor:
            value = saved.get(p.number, {}).get(name)
            return theta.new_full((p.stop - p.start,), start) if value is None else value.detach().flatten().to(theta)

        return {name: torch.cat([held(p, name) for p in parameters]) for name in segment.slots}

    def extra_repr(self) -> str:
        """The model, the number of its parameters and the optimiser."""
        return f"{self.model_name} with {self.layout.size:,} trained parameters, {self.optimizer_name}"
