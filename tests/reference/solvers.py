"""Wan's flow-matching solvers over plain tensors: sigma lists, timesteps, and one step() per model call."""

import numpy as np
import torch


def shifted(base, shift):
    return shift * base / (1 + (shift - 1) * base)


def schedule(solver, steps, shift):
    """Returns sigmas [steps + 1] in float32 and the timesteps [steps] that the model sees."""
    if solver == "unipc":
        base = np.linspace(float(np.float32(0.999)), 0.0, steps + 1)[:-1]
    elif solver == "dpm++":
        base = np.linspace(1.0, 0.0, steps + 1)[:-1]
    elif solver == "euler":  # diffusers shifts the low end of this list twice
        base = np.linspace(1.0, np.float32(shifted(0.001, shift)), steps)
    else:
        raise ValueError(f"unknown solver {solver}")
    sigmas = shifted(base, shift)
    timesteps = torch.from_numpy(sigmas * 1000)
    timesteps = timesteps.float() if solver == "euler" else timesteps.long()
    return torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32)), timesteps


def log_snr(sigma):
    return torch.log(1 - sigma) - torch.log(sigma)  # -inf at sigma 1, +inf at sigma 0: both are used


class Euler:
    def __init__(self, sigmas):
        self.sigmas, self.index = sigmas, 0

    def step(self, velocity, sample):
        here, there = self.sigmas[self.index : self.index + 2]
        self.index += 1
        return sample + (there - here) * velocity


class DpmPlusPlus:
    """DPM-Solver++ of order 2, midpoint, first order at both ends."""

    def __init__(self, sigmas):
        self.sigmas, self.index, self.before = sigmas, 0, None

    def step(self, velocity, sample):
        s, i, last = self.sigmas, self.index, len(self.sigmas) - 2
        data = sample - s[i] * velocity
        h = log_snr(s[i + 1]) - log_snr(s[i])
        estimate = data
        if 0 < i < last:
            ratio = (log_snr(s[i]) - log_snr(s[i - 1])) / h
            estimate = data + 0.5 * (1 / ratio) * (data - self.before)
        self.before, self.index = data, i + 1
        return s[i + 1] / s[i] * sample - (1 - s[i + 1]) * (torch.exp(-h) - 1) * estimate


class UniPC:
    """UniPC of order 2 (bh2, data prediction): predicts the next sample and corrects the one before."""

    def __init__(self, sigmas):
        self.sigmas, self.index, self.order = sigmas, 0, 0
        self.history, self.corrected = [], None

    def step(self, velocity, sample):
        i, steps = self.index, len(self.sigmas) - 1
        data = sample - self.sigmas[i] * velocity
        if i > 0:
            sample = self._update(self.corrected, i - 1, self.order, data)
        self.history = (self.history + [data])[-2:]
        self.corrected, self.order, self.index = sample, min(2, steps - i, i + 1), i + 1
        return self._update(sample, i, self.order, None)

    def _update(self, sample, j, order, new):
        """Goes from sigma j to sigma j + 1; `new` is the data estimate there, for the corrector only."""
        s, data = self.sigmas, self.history[-1]
        h = log_snr(s[j + 1]) - log_snr(s[j])
        e, residual = torch.expm1(-h), 0.0
        if order == 2:
            ratio = (log_snr(s[j - 1]) - log_snr(s[j])) / h
            difference = (self.history[-2] - data) / ratio
            if new is None:
                residual = 0.5 * difference
            else:
                g = e / -h - 1
                c1, c2 = g / e, (g / -h - 0.5) * 2 / e
                rho = (c1 - c2) / (1 - ratio)
                residual = rho * difference + (c1 - rho) * (new - data)
        elif new is not None:
            residual = 0.5 * (new - data)
        return s[j + 1] / s[j] * sample - (1 - s[j + 1]) * e * (data + residual)


def make_solver(solver, sigmas):
    return {"unipc": UniPC, "dpm++": DpmPlusPlus, "euler": Euler}[solver](sigmas)
