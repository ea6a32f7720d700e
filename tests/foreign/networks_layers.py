"""Architectures in a few lines: convolutional, attentive, physical, implicit; depth is their time."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from foreign.networks_idioms import EVERY, SLOPE, numbers, square
from foreign.oracle import Layered


class BasicBlock(nn.Module):
    """torchvision's residual block, with ReLU(inplace=True), batch norms and a downsampling branch."""

    def __init__(self, a, b, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.relu, self.downsample = nn.ReLU(inplace=True), None
        if stride > 1 or a != b:
            self.downsample = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


def resnet():
    """A small ResNet."""
    return nn.Sequential(BasicBlock(2, 2), BasicBlock(2, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))


class DenseNet(nn.Module):
    """Every layer reads all that came before, by torch.cat."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2 + 2 * i, 2, 3, padding=1) for i in range(3))

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(F.relu(layer(torch.cat(features, 1))))
        return torch.cat(features, 1).mean((2, 3))


class InvertedResidual(nn.Module):
    """MobileNet's: expand, depthwise, squeeze and excite, project; hardswish and hardsigmoid."""

    def __init__(self, c=2, e=6):
        super().__init__()
        self.expand, self.depthwise, self.project = nn.Conv2d(c, e, 1), nn.Conv2d(e, e, 3, padding=1, groups=e), nn.Conv2d(e, c, 1)
        self.squeeze, self.excite, self.act = nn.Conv2d(e, 2, 1), nn.Conv2d(2, e, 1), nn.Hardswish()

    def forward(self, x):
        y = self.act(self.depthwise(self.act(self.expand(x))))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.project(y)


class UNet(nn.Module):
    """Down, up by interpolation, skips by cat."""

    def __init__(self):
        super().__init__()
        self.down, self.mid, self.up = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        skip = F.leaky_relu(self.down(x), 0.1)
        low = F.leaky_relu(self.mid(F.avg_pool2d(skip, 2)), 0.1)
        return self.up(torch.cat([skip, F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)], 1))


class DropPath(nn.Module):
    """timm's ConvNeXt block: layer scale, DropPath by self.training, permutes; left in train mode."""

    def __init__(self, c=3, p=0.3):
        super().__init__()
        self.dw, self.norm = nn.Conv2d(c, c, 3, padding=1, groups=c), nn.LayerNorm(c)
        self.a, self.b = nn.Linear(c, 6), nn.Linear(6, c)
        self.gamma, self.p = nn.Parameter(torch.full((c,), 0.5)), p

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = (self.gamma * self.b(F.gelu(self.a(y)))).permute(0, 3, 1, 2)
        if self.training:
            y = y * (torch.rand(len(x), 1, 1, 1, device=x.device) > self.p) / (1 - self.p)
        return x + y


class Encoder(nn.Module):
    """PyTorch's own encoder layers, positions from a buffer, mean over tokens; dropout, left in train mode."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.register_buffer("positions", torch.randn(5, 4))

    def forward(self, x):
        return self.encoder(x + self.positions[: x.shape[1]]).mean(1)


class PostNorm(nn.Module):
    """Post-norm layers with PyTorch's fast path."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)

    def forward(self, x):
        return self.layer(x)


class GPT(nn.Module):
    """nanoGPT: fused qkv, causal mask in a buffer, scaled_dot_product_attention, tied embedding, tokens in."""

    class Block(nn.Module):
        """Pre-norm attention and MLP."""

        def __init__(self, d, heads):
            super().__init__()
            self.ln1, self.ln2, self.heads = nn.LayerNorm(d), nn.LayerNorm(d), heads
            self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
            self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(approximate="tanh"), nn.Linear(2 * d, d), nn.Dropout(0.1))

        def forward(self, x):
            b, t, d = x.shape
            q, k, v = (p.view(b, t, self.heads, -1).transpose(1, 2) for p in self.qkv(self.ln1(x)).split(d, -1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(b, t, d))
            return x + self.mlp(self.ln2(x))

    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(9, 4), nn.Embedding(6, 4)
        self.blocks, self.norm = nn.ModuleList(self.Block(4, 2) for _ in range(2)), nn.LayerNorm(4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.wte.weight

    def embed(self, tokens):
        return self.wte(tokens)

    def forward(self, tokens, targets=None):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)), None


class Rotary(nn.Module):
    """Llama's block: RMSNorm, rotary positions by complex numbers, grouped keys, SwiGLU, a Python mask."""

    def __init__(self, d=8):
        super().__init__()
        self.norm, self.q, self.k, self.v, self.o = (
            nn.Parameter(torch.ones(d)),
            *(nn.Linear(d, n, bias=False) for n in (d, 4, 4)),
            nn.Linear(d, d, bias=False),
        )
        self.w1, self.w2, self.w3 = nn.Linear(d, 10, bias=False), nn.Linear(10, d, bias=False), nn.Linear(d, 10, bias=False)

    def rms(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.norm

    def turn(self, x):
        angle = torch.outer(torch.arange(x.shape[1]), 1.0 / 100 ** (torch.arange(0, x.shape[-1], 2) / x.shape[-1])).to(x)
        turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angle), angle)[:, None]
        return torch.view_as_real(turned).flatten(-2)

    def forward(self, x):
        b, t, _ = x.shape
        y = self.rms(x)
        q, k, v = self.q(y).view(b, t, 2, 4), self.k(y).view(b, t, 1, 4), self.v(y).view(b, t, 1, 4)
        k, v = (part.expand(-1, -1, 2, -1).transpose(1, 2) for part in (self.turn(k), v))
        q = self.turn(q).transpose(1, 2)
        scores = q @ k.transpose(-1, -2) / 2 + torch.full((t, t), float("-inf")).triu(1).to(x)
        x = x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1))
        y = self.rms(x)
        return x + self.w2(F.silu(self.w1(y)) * self.w3(y))


class MultiheadCross(nn.Module):
    """A Perceiver: learned queries attend to the inputs by nn.MultiheadAttention, which returns weights beside."""

    def __init__(self):
        super().__init__()
        self.queries, self.out = nn.Parameter(torch.randn(2, 4)), nn.Linear(4, 3)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        y, _ = self.attend(self.queries.expand(len(x), -1, -1), x, x)
        return self.out(y)


class Mixture(nn.Module):
    """A mixture of experts, tokens routed by top-k and gathered with index_add: how often an expert is called depends on data."""

    def __init__(self, d=4, experts=3):
        super().__init__()
        self.gate = nn.Linear(d, experts)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(d, 6), nn.GELU(), nn.Linear(6, d)) for _ in range(experts))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat).softmax(-1).topk(2, -1)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == i)
            if len(rows):
                out = out.index_add(0, rows, weights[rows, place, None] * expert(flat[rows]))
        return out.reshape(x.shape)


class Soft(nn.Module):
    """A soft mixture: all experts, weighted."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 3), nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        return torch.einsum("be,bed->bd", self.gate(x).softmax(-1), torch.stack([e(x) for e in self.experts], 1))


class Mixer(nn.Module):
    """MLP-Mixer: over tokens and over channels, by transposes."""

    def __init__(self):
        super().__init__()
        self.n1, self.n2, self.tokens, self.channels = nn.LayerNorm(4), nn.LayerNorm(4), nn.Linear(3, 3), nn.Linear(4, 4)

    def forward(self, x):
        x = x + F.gelu(self.tokens(self.n1(x).mT)).mT
        return x + F.gelu(self.channels(self.n2(x)))


class Siren(nn.Module):
    """sin(ω x) with ω = 30."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        with torch.no_grad():
            self.b.weight.uniform_(-math.sqrt(6 / 8) / 30, math.sqrt(6 / 8) / 30)

    def forward(self, x):
        return self.c(torch.sin(30 * self.b(torch.sin(30 * self.a(x)))))


class PositionalEncoding(nn.Module):
    """NeRF: sines and cosines of octaves, a skip in the middle, densities by relu."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(14, 8), nn.Linear(22, 8), nn.Linear(8, 2)

    def forward(self, x):
        waves = [x] + [f(2.0**i * x) for i in range(3) for f in (torch.sin, torch.cos)]
        code = torch.cat(waves, -1)
        return self.c(F.softplus(self.b(torch.cat([F.relu(self.a(code)), code], -1))))


class KAN(nn.Module):
    """Learned functions on edges: radial bases by broadcasting and einsum, and a silu branch."""

    def __init__(self, i=3, o=3, grid=5):
        super().__init__()
        self.base, self.spline = nn.Linear(i, o, bias=False), nn.Parameter(0.3 * torch.randn(o, i, grid))
        self.register_buffer("grid", torch.linspace(-2, 2, grid))

    def forward(self, x):
        return self.base(F.silu(x)) + torch.einsum("big,oig->bo", torch.exp(-((x[..., None] - self.grid) ** 2)), self.spline)


class Hypernet(nn.Module):
    """The weights of the layer are made from the input, item by item, by bmm."""

    def __init__(self, n=3):
        super().__init__()
        self.make, self.n = nn.Linear(n, n * n), n

    def forward(self, x):
        w = self.make(x).view(-1, self.n, self.n)
        return torch.tanh(torch.bmm(w, x.unsqueeze(-1)).squeeze(-1))


class DeepEquilibrium(nn.Module):
    """A fixed point of z = tanh(W z + U x), iterated in forward until it stands still."""

    def __init__(self, n=4):
        super().__init__()
        self.w, self.u = nn.Linear(n, n, bias=False), nn.Linear(n, n)
        with torch.no_grad():
            self.w.weight.mul_(0.5)

    def forward(self, x):
        z = torch.zeros_like(x)
        for _ in range(40):
            new = torch.tanh(self.w(z) + self.u(x))
            if (new - z).abs().max() < 1e-14:
                break
            z = new
        return z


class DeepEquilibriumDetached(nn.Module):
    """The solver runs under no_grad and one more step carries the gradient (the one-step gradient)."""

    def __init__(self, n=4):
        super().__init__()
        self.w, self.u = nn.Linear(n, n, bias=False), nn.Linear(n, n)

    def forward(self, x):
        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(12):
                z = torch.tanh(0.5 * self.w(z) + self.u(x))
        return torch.tanh(0.5 * self.w(z) + self.u(x))


class Coupling(nn.Module):
    """A normalising flow: affine couplings by chunk, a reversal, (z, log|det J|) returned."""

    def __init__(self, n=4):
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(n // 2, 6), nn.Tanh(), nn.Linear(6, n)) for _ in range(3))

    def forward(self, x):
        total = x.new_zeros(len(x))
        for net in self.nets:
            a, b = x.chunk(2, -1)
            s, t = net(a).chunk(2, -1)
            x = torch.cat([b * torch.exp(torch.tanh(s)) + t, a], -1)
            total = total + torch.tanh(s).sum(-1)
        return x, total


class OwnRungeKutta(nn.Module):
    """A neural ODE with its own loop over RK4 steps."""

    def __init__(self, n=3):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(n, 6), nn.Tanh(), nn.Linear(6, n))

    def forward(self, x, steps=5, h=0.2):
        for _ in range(steps):
            a = self.f(x)
            b = self.f(x + h / 2 * a)
            c = self.f(x + h / 2 * b)
            x = x + h / 6 * (a + 2 * b + 2 * c + self.f(x + h * c))
        return x


class HamiltonianField(nn.Module):
    """J ∇H by autograd.grad inside forward, with requires_grad_ on the input."""

    def __init__(self, n=4):
        super().__init__()
        self.h = nn.Sequential(nn.Linear(n, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            (g,) = torch.autograd.grad(self.h(x).sum(), x, create_graph=True)
        q, p = g.chunk(2, -1)
        return torch.cat([p, -q], -1)


class FunctionalHamiltonian(nn.Module):
    """The same by torch.func.grad and vmap."""

    def __init__(self, n=4):
        super().__init__()
        self.h = nn.Sequential(nn.Linear(n, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        g = torch.func.vmap(torch.func.grad(lambda one: self.h(one).squeeze(-1)))(x)
        q, p = g.chunk(2, -1)
        return torch.cat([p, -q], -1)


class EnergyDescent(nn.Module):
    """One Langevin-like step downhill in a learned energy, with its gradient inside forward."""

    def __init__(self, n=3):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(n, 8), nn.SiLU(), nn.Linear(8, 1))

    @torch.enable_grad()
    def forward(self, x):
        y = x.clone().requires_grad_() if not x.requires_grad else x
        return y - 0.3 * torch.autograd.grad(self.energy(y).sum(), y, create_graph=True)[0]


class GraphConvolution(nn.Module):
    """A graph network with a normalised adjacency matrix in a buffer, nodes beside the batch."""

    def __init__(self):
        super().__init__()
        a = (torch.rand(5, 5) < 0.5).float()
        a = a + a.T + torch.eye(5)
        self.register_buffer("adjacency", a / a.sum(-1, keepdim=True))
        self.a, self.b = nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.adjacency @ self.b(F.relu(self.adjacency @ self.a(x)))


class MessagePassing(nn.Module):
    """Edges as an integer buffer, messages scattered by index_add."""

    def __init__(self):
        super().__init__()
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]]))
        self.message, self.update = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        source, target = self.edges
        m = torch.tanh(self.message(torch.cat([x[:, source], x[:, target]], -1)))
        return torch.tanh(self.update(torch.cat([x, torch.zeros_like(x).index_add(1, target, m)], -1)))


class Equivariant(nn.Module):
    """E(n)-equivariant: pairwise distances by cdist move the points along their differences."""

    def __init__(self):
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(1, 6), nn.SiLU(), nn.Linear(6, 1))

    def forward(self, x):
        apart = x[:, :, None] - x[:, None]
        return x + (apart * self.phi(apart.square().sum(-1, keepdim=True))).mean(2)


class HopfieldLayer(nn.Module):
    """Modern Hopfield retrieval: softmax over stored patterns, three updates."""

    def __init__(self, n=4, stored=6, beta=2.0):
        super().__init__()
        self.patterns, self.beta = nn.Parameter(torch.randn(stored, n)), beta

    def forward(self, x):
        for _ in range(3):
            x = torch.softmax(self.beta * x @ self.patterns.T, -1) @ self.patterns
        return x


class CentredBatch(nn.Module):
    """Takes the batch's mean away: items of a batch depend on each other."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.fc(x)
        return torch.tanh(x - 0.5 * x.mean(0, keepdim=True))


class Highway(nn.Module):
    """Gated depth, biased to carry."""

    def __init__(self, n=4, depth=4):
        super().__init__()
        self.h, self.t = nn.ModuleList(nn.Linear(n, n) for _ in range(depth)), nn.ModuleList(nn.Linear(n, n) for _ in range(depth))

    def forward(self, x):
        for h, t in zip(self.h, self.t, strict=True):
            gate = torch.sigmoid(t(x) - 1)
            x = gate * torch.relu(h(x)) + (1 - gate) * x
        return x


class Autoencoder(nn.Module):
    """encode, decode and forward → (reconstruction, mean, log variance); samples only while it trains."""

    def __init__(self):
        super().__init__()
        self.enc, self.mean, self.log, self.dec = nn.Linear(5, 6), nn.Linear(6, 2), nn.Linear(6, 2), nn.Linear(2, 5)

    def encode(self, x):
        h = torch.tanh(self.enc(x))
        return self.mean(h), self.log(h)

    def forward(self, x):
        mean, log = self.encode(x)
        z = mean + torch.randn_like(log) * (0.5 * log).exp() if self.training else mean
        return torch.tanh(self.dec(z)), mean, log


class Quantised(nn.Module):
    """A vector quantiser: the nearest code, straight through."""

    def __init__(self):
        super().__init__()
        self.enc, self.codes, self.dec = nn.Linear(4, 3), nn.Embedding(5, 3), nn.Linear(3, 4)

    def forward(self, x):
        z = self.enc(x)
        nearest = self.codes(torch.cdist(z, self.codes.weight).argmin(-1))
        return self.dec(z + (nearest - z).detach())


class FourierOperator(nn.Module):
    """A Fourier neural operator: complex weights on the first modes of an rfft."""

    def __init__(self, n=8, modes=3):
        super().__init__()
        self.weight, self.modes, self.local = nn.Parameter(0.5 * torch.randn(modes, dtype=torch.cfloat)), modes, nn.Linear(n, n)

    def forward(self, x):
        spectrum = torch.fft.rfft(x)
        out = torch.zeros_like(spectrum)
        out[:, : self.modes] = spectrum[:, : self.modes] * self.weight
        return F.gelu(torch.fft.irfft(out, n=x.shape[-1]) + self.local(x))


class DuelingHeads(nn.Module):
    """A value network of (observation, action): two arguments, joined by cat."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 1)

    def forward(self, observation, action):
        return self.b(F.silu(self.a(torch.cat([observation, action], -1))))


class TimeConditioned(nn.Module):
    """A denoiser of (x, t): an embedding of the time in every layer."""

    def __init__(self):
        super().__init__()
        self.time, self.a, self.b = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, x, t):
        waves = t[:, None] * torch.tensor([1.0, 10.0]).to(x)
        return self.b(F.silu(self.a(x) + self.time(torch.cat([waves.sin(), waves.cos()], -1))))


class Wide(nn.Module):
    """More inputs than the whole Jacobian is taken of: subspace iteration."""

    def __init__(self, n=300):
        super().__init__()
        self.a, self.b = nn.Linear(n, 12), nn.Linear(12, 12)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


IMAGE, TOKENS = numbers(2, 2, 6, 6), numbers(2, 3, 4)
ACTION, WHEN = numbers(2, 2, seed=5), torch.tensor([0.3, 0.7])


CASES = [
    Layered(resnet, IMAGE),
    Layered(DenseNet, numbers(2, 2, 4, 4)),
    Layered(InvertedResidual, numbers(2, 2, 4, 4)),
    Layered(UNet, numbers(2, 1, 4, 4)),
    Layered(DropPath, numbers(2, 3, 3, 3)),
    Layered(Encoder, numbers(2, 5, 4)),
    Layered(PostNorm, TOKENS),
    Layered(Rotary, numbers(2, 3, 8)),
    Layered(MultiheadCross, TOKENS),
    Layered(Mixture, numbers(4, 4), EVERY),
    Layered(Mixture, numbers(2, 3, 4), name="Mixture-of-tokens"),
    square(Soft),
    Layered(Mixer, TOKENS),
    square(Siren, numbers(3, 2)),
    square(PositionalEncoding, numbers(3, 2)),
    square(KAN, numbers(3, 3)),
    square(Hypernet, numbers(3, 3)),
    square(DeepEquilibrium),
    square(DeepEquilibriumDetached),
    square(Coupling, refused=dict.fromkeys(("map", "ode"), "tuple")),
    square(OwnRungeKutta, numbers(3, 3)),
    square(HamiltonianField, refused={"certificate": "gradient|HamiltonianField"}),
    square(FunctionalHamiltonian),
    square(EnergyDescent, numbers(3, 3), refused={"certificate": "gradient|EnergyDescent"}),
    Layered(GraphConvolution, numbers(2, 5, 2)),
    Layered(MessagePassing, numbers(2, 4, 2)),
    Layered(Equivariant, numbers(2, 3, 2)),
    square(HopfieldLayer),
    square(CentredBatch, refused=dict.fromkeys(EVERY, "batch|items")),
    square(Highway),
    Layered(Autoencoder, numbers(2, 5)),
    square(Quantised, refused=SLOPE),
    square(FourierOperator, numbers(3, 8)),
    Layered(
        DuelingHeads,
        numbers(2, 3),
        ("depth", "analyze"),
        call=lambda m, x: m(x, ACTION[:1].to(x)),
        given=lambda x: (x, ACTION[:1].expand(2, -1).contiguous()),
    ),
    Layered(
        TimeConditioned,
        numbers(2, 3),
        ("depth", "analyze"),
        call=lambda m, x: m(x, WHEN[:1].to(x)),
        given=lambda x: (x, WHEN[:1].expand(2).contiguous()),
    ),
    Layered(Wide, numbers(2, 300), ("depth", "analyze")),
]
