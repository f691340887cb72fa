"""EquiVAE: an invariant representation r of the class and an equivariant representation v of the transformation.

Source: I. Feige, "Invariant-Equivariant Representation Learning for Multi-Class Data", ICML 2019. What follows is the
model's form as generally understood; docs/method.md marks this project's own choices.

The same parts make two other models. With `class_code: one_hot` the class's unit vector stands where r stands: that is
Kingma's M2 (NeurIPS 2014). With `class_code: none` nothing does and there is a single class: the plain VAE.

Shapes: B examples, K classes (1 for the plain VAE), R and V sizes of r and v (R is K for one-hot codes, 1 for none),
H features of a trunk. E is R, or 2R for a stochastic r: mean and log-variance side by side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ie_model.config import ModelConfig
from ie_model.likelihoods import make_likelihood, normal_kl
from ie_model.networks import PosteriorHead, check_fit, make_decoder, make_trunk
from ie_model.spec import DataSpec


class EquiVAE(nn.Module):
    """The networks f_inv, q(v | r, x), p(x | r, v) and q(y | x).

    Raises:
        ValueError: the configuration does not fit the data.
    """

    log_prior: Tensor
    """log p(y), `[K]`; uniform by default."""

    def __init__(self, spec: DataSpec, config: ModelConfig | None = None) -> None:
        """
        Args:
            config: None: the default one.

        Raises:
            ValueError: parts that do not go with data of this kind.
        """
        super().__init__()
        config = config or ModelConfig()
        check_fit(spec, config)
        self.spec = spec
        self.config = config
        self.num_codes = 1 if config.class_code == "none" else spec.num_classes
        self.r_dim = {"embedding": config.r_dim, "one_hot": spec.num_classes, "none": 1}[config.class_code]
        self.register_buffer("log_prior", torch.full((self.num_codes,), -math.log(self.num_codes)))
        if config.class_code != "none":
            self.invariant_trunk = make_trunk(spec, config)
            self.invariant_out = nn.Linear(config.hidden, (2 if config.stochastic_r else 1) * config.r_dim)
            if config.initialisation == "he":
                nn.init.normal_(self.invariant_out.weight, std=config.hidden**-0.5)
        self.posterior_trunk = make_trunk(spec, config)
        self.posterior_head = PosteriorHead(config, self.r_dim)
        self.decoder = make_decoder(spec, config, self.r_dim)
        self.likelihood = make_likelihood(spec)
        if config.classifier == "distance":
            # Of the softmax over distances; the logarithm, so that it stays positive.
            self.log_inverse_temperature = nn.Parameter(torch.tensor(math.log(config.r_dim)))
        elif config.classifier == "network":
            self.class_logits = nn.Linear(config.r_dim, spec.num_classes)

    def embed_support(self, x: Tensor) -> Tensor:
        """What a class's representation is averaged from: `[B, *shape]` floats -> `[B, E]`."""
        if self.config.class_code == "none":
            return x.new_zeros(x.shape[0], 1)
        return _full(self.invariant_out(self.invariant_trunk(x)))

    def embed(self, x: Tensor) -> Tensor:
        """f_inv(x): `[B, *shape]` floats -> `[B, config.r_dim]`."""
        return self.embed_support(x)[:, : self.config.r_dim]

    def codes(self, means: Tensor) -> Tensor:
        """What stands for each class, `[K, E]`, from the mean embeddings of the classes `[num_classes, E]`."""
        if self.config.class_code == "embedding":
            return means
        return self.fixed_codes().to(means)

    def fixed_codes(self) -> Tensor:
        """The codes of models that do not learn them from a support, `[K, R]`."""
        return torch.eye(self.num_codes) if self.config.class_code == "one_hot" else torch.zeros(1, 1)

    def draw_r(self, code: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """r `[B, R]` from codes `[B, E]`, and what it costs in nats `[B]`: nothing, unless r is stochastic.

        A code of width R is an r that is known already, as at test time.
        """
        if code.shape[-1] == self.r_dim:
            return code, code.new_zeros(code.shape[0])
        mean, log_var = code.chunk(2, dim=-1)
        log_var = log_var.clamp(-10.0, 10.0)
        r = mean + (0.5 * log_var).exp() * noise_like(mean, generator)
        return r, normal_kl(mean, log_var).sum(-1)

    def mean_r(self, code: Tensor) -> Tensor:
        """r without noise, `[..., R]` from `[..., E]`."""
        return code[..., : self.r_dim]

    def features(self, x: Tensor) -> Tensor:
        """The part of q(v | r, x) that does not depend on r, once per x: `[B, *shape]` -> `[B, H]`."""
        return self.posterior_head.project_features(self.posterior_trunk(x))

    def posterior(self, features: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(v | r, x), each `[B, V]`, from `features(x)` `[B, H]` and r `[B, R]`."""
        mean, log_var = self.posterior_head.combine(features, self.posterior_head.project_r(r))
        return _full(mean), _full(log_var)

    def decode(self, r: Tensor, v: Tensor) -> Tensor:
        """Parameters of p(x | r, v): r `[B, R]`, v `[B, V]` -> `[B, *shape]`."""
        return _full(self.decoder(r, v))

    def log_prob(self, x: Tensor, r: Tensor, v: Tensor) -> Tensor:
        """log p(x | r, v) in nats, `[B]`."""
        result: Tensor = self.likelihood.log_prob(x, self.decode(r, v))
        return result

    def reconstruct(self, r: Tensor, v: Tensor, x: Tensor | None = None) -> Tensor:
        """E[x | r, v] `[B, *shape]`; x gives the totals of counts."""
        result: Tensor = self.likelihood.mean(self.decode(r, v), x)
        return result

    def classify(self, f: Tensor, r: Tensor) -> Tensor:
        """log q(y | x) `[B, K]` from f = f_inv(x) `[B, config.r_dim]` and the class representations r `[K, R]`."""
        if self.config.classifier == "none":
            return f.new_zeros(f.shape[0], 1)
        if self.config.classifier == "network":
            return _full(self.class_logits(f)).log_softmax(-1)
        return self.distance_logits(squared_distances(f, r)).log_softmax(-1)

    def distance_logits(self, distances: Tensor) -> Tensor:
        """Squared distances -> unnormalised log q(y | x) of the distance classifier, the same shape."""
        return -self.log_inverse_temperature.exp() * distances


def _full(x: Tensor) -> Tensor:
    """What a network in reduced precision gives, at full precision: likelihoods, KLs and distances need it."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def squared_distances(f: Tensor, r: Tensor) -> Tensor:
    """Mean squared difference of every pair: f `[B, R]`, r `[K, R]` -> `[B, K]`.

    The mean over R, not the sum: the learned scale then starts in the same place for any R.
    """
    return (f.unsqueeze(1) - r.unsqueeze(0)).square().mean(-1)


def class_sums(f: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """S_y = sum of the embeddings of class y `[K, E]` and n_y, their number `[K]`, from f `[B, E]` and y `[B]`."""
    sums = f.new_zeros(num_classes, f.shape[1]).index_add(0, y, f)
    counts = f.new_zeros(num_classes).index_add(0, y, torch.ones_like(y, dtype=f.dtype))
    return sums, counts


def class_means(sums: Tensor, counts: Tensor) -> Tensor:
    """r_y, the mean embedding of each class `[K, E]`, from S_y `[K, E]` and n_y `[K]`.

    Raises:
        ValueError: a class has no point in the support.
    """
    if bool((counts < 1).any()):
        missing = torch.nonzero(counts < 1).flatten().tolist()
        raise ValueError(f"no labelled point of class {missing}: its representation r is undefined")
    return sums / counts.unsqueeze(1)


def leave_one_out_means(f: Tensor, y: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """r_-i = (S_y - f(x_i)) / (n_y - 1): the representation of x_i's class without x_i, `[B, E]`.

    One pass over the support, no resampling (ours). S_y `[K, E]` and n_y `[K]` are of a support that holds the
    points f `[B, E]` of classes y `[B]`, and may hold others.

    Raises:
        ValueError: a class is present with a single point, which has no complement.
    """
    if bool((counts == 1).any()):
        single = torch.nonzero(counts == 1).flatten().tolist()
        raise ValueError(
            f"class {single} has a single labelled point: without it nothing is left to represent the class"
        )
    return (sums.index_select(0, y) - f) / (counts[y] - 1).unsqueeze(1)


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise, drawn on the generator's device so that a seed means the same on any device."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
