"""Chunked contrastive losses equal the naive ones, on any number of processes of unequal counts."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from patchpack.distributed import init_distributed
from patchpack.tasks.contrastive import loss as contrast
from patchpack.tasks.contrastive.loss import sigmoid_contrastive, softmax_contrastive

DIM = 24
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import test_contrast
test_contrast.rank_main([int(count) for count in sys.argv[2].split(",")], sys.argv[3], sys.argv[4])
"""


def naive_softmax(images, texts, scale, bias):
    logits = scale * images @ texts.T
    own = torch.arange(len(images))
    both = F.cross_entropy(logits, own, reduction="sum")
    return 0.5 * (both + F.cross_entropy(logits.T, own, reduction="sum"))


def naive_sigmoid(images, texts, scale, bias):
    logits = scale * images @ texts.T + bias
    return -F.logsigmoid(logits * (2 * torch.eye(len(images)) - 1)).sum()


NAIVE = {"softmax": naive_softmax, "sigmoid": naive_sigmoid}


def chunked(kind, images, texts, scale, bias):
    if kind == "softmax":
        return softmax_contrastive(images, texts, scale)
    return sigmoid_contrastive(images, texts, scale, bias)


def inputs(pairs: int):
    torch.manual_seed(1)
    images, texts = (F.normalize(torch.randn(pairs, DIM), dim=1) for _ in range(2))
    return [t.requires_grad_() for t in (images, texts, torch.tensor(7.5), torch.tensor(-3.0))]


def expected(kind, pairs):
    tensors = inputs(pairs)
    loss = NAIVE[kind](*tensors)
    gradients = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
    return loss, gradients


def assert_equal(found, reference):
    for a, b in zip(found, reference, strict=True):
        highest = float(b.detach().abs().max())
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * max(1.0, highest))


@pytest.mark.parametrize("kind", NAIVE)
@pytest.mark.parametrize("cells", [1, 40, 1 << 22], ids="chunks of {} cells".format)
def test_chunks_equal_the_whole_matrix(kind, cells, monkeypatch):
    monkeypatch.setattr(contrast, "CELLS", cells)
    tensors = inputs(13)
    loss = chunked(kind, *tensors)
    assert loss.count == 13
    reference, gradients = expected(kind, 13)
    found = torch.autograd.grad(loss.sum, tensors, allow_unused=True, materialize_grads=True)
    assert_equal([loss.sum, *found], [reference, *gradients])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", NAIVE)
def test_on_a_gpu_as_on_a_cpu(kind, monkeypatch):
    monkeypatch.setattr(contrast, "CELLS", 40)
    tensors = [t.detach().cuda().requires_grad_() for t in inputs(13)]
    loss = chunked(kind, *tensors).sum
    reference, gradients = expected(kind, 13)
    found = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
    assert_equal([t.cpu() for t in (loss, *found)], [reference, *gradients])


@pytest.mark.parametrize("kind", NAIVE)
def test_large_logits_do_not_overflow(kind):
    images, texts, _, bias = inputs(6)
    scale = torch.tensor(1e4)
    loss = chunked(kind, images, texts, scale, bias).sum
    torch.testing.assert_close(loss, NAIVE[kind](images, texts, scale, bias), rtol=1e-5, atol=0)


def test_no_pairs_at_all():
    tensors = [torch.empty(0, DIM, requires_grad=True) for _ in range(2)]
    loss = softmax_contrastive(*tensors, torch.tensor(1.0))
    loss.sum.backward()
    assert loss.sum == 0 and loss.count == 0 and tensors[0].grad.shape == (0, DIM)


def rank_main(counts: list[int], kind: str, out: str) -> None:
    """What one of several processes does: its own pairs, and the gradients of all."""
    contrast.CELLS = 30
    with init_distributed() as world:
        images, texts, scale, bias = inputs(sum(counts))
        start = sum(counts[: world.rank])
        mine = slice(start, start + counts[world.rank])
        own = [t.detach()[mine].clone().requires_grad_() for t in (images, texts)]
        loss = chunked(kind, *own, scale, bias).sum
        loss.backward()
        gradients = [tensor.grad for tensor in (*own, scale, bias)]
        torch.save([loss.detach(), *gradients], f"{out}/{world.rank}.pt")


@pytest.mark.parametrize("kind", NAIVE)
@pytest.mark.parametrize("counts", [(9, 4), (5, 0, 8)], ids=str)
def test_processes_of_unequal_counts_equal_one(kind, counts, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shape = ",".join(map(str, counts))
    arguments = [str(Path(__file__).parent), shape, kind, str(tmp_path)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(len(counts)),
                 "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for rank in range(len(counts))
    ]  # fmt: skip
    assert [process.wait(120) for process in processes] == [0] * len(counts)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(counts))]
    losses, images, texts, scales, biases = zip(*ranks, strict=True)
    bias = sum(b for b in biases if b is not None) if kind == "sigmoid" else torch.tensor(0.0)
    found = [sum(losses), torch.cat(images), torch.cat(texts), sum(scales), bias]
    reference, gradients = expected(kind, sum(counts))
    assert_equal(found, [reference, *gradients])
