"""Processes that torchrun starts, and settings that contradict them."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.factories import BASE_CONFIG, CONFIGS, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.config.env import Torchrun, torchrun
from u2seg.engine import processes
from u2seg.engine.interrupt import Interrupted
from u2seg.engine.processes import run_in_processes
from u2seg.engine.run import train_or_evaluate
from u2seg.errors import StageError, UserError
from u2seg.host.arguments import train_parser
from u2seg.host.setup import build_cfg

pytestmark = pytest.mark.d2
prepare_host()
ROOT = Path(__file__).resolve().parents[2]
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

PROCESS = """
import sys
from u2seg.compat import prepare_host
prepare_host()
import torch
from torch import nn
from u2seg.engine.ema import WeightAverage
from u2seg.engine.processes import share_buffers

rank, url = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=url, rank=rank, world_size=2)
model = nn.BatchNorm1d(1)
model.register_buffer("constant", torch.tensor(float(rank)), persistent=False)
average = WeightAverage(0.5)
model.running_mean.fill_(10 + rank)
average.start(model)
model.running_mean.fill_(20 + rank)
model.num_batches_tracked.fill_(30 + rank)
average.update(model)
share_buffers(model, average)
means = float(model.running_mean), float(average.weights["running_mean"])
print(*means, int(model.num_batches_tracked), float(model.constant))
"""


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_all(*values: str) -> None:
        for name, value in zip(NAMES, (*values, "127.0.0.1", "29500"), strict=True):
            monkeypatch.setenv(name, value)

    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return set_all


def arguments(*words: str) -> Any:
    return train_parser().parse_intermixed_args(["--config-file", str(BASE_CONFIG), *words])


def test_torchruns_variables(variables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 1 of the second of two machines with two processes each."""
    assert torchrun() is None
    monkeypatch.setenv("RANK", "3")  # alone it means nothing: batch systems set it too
    assert torchrun() is None
    variables("3", "4", "1", "2")
    assert torchrun() == Torchrun(rank=3, world=4, local_rank=1, local_world=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("x", "2", "0", "1"), "must be numbers >= 0, found RANK='x'"),
        (("2", "2", "0", "1"), "RANK='2', WORLD_SIZE='2'"),
        (("0", "3", "0", "2"), "every machine must run as many processes"),
    ],
)
def test_impossible_variables_are_refused(
    variables: Any, values: tuple[str, ...], message: str
) -> None:
    variables(*values)
    with pytest.raises(UserError, match=message):
        torchrun()


@pytest.mark.parametrize("flag", ["--num-gpus", "--num-machines"])
def test_two_ways_of_starting_processes_are_refused(variables: Any, flag: str) -> None:
    variables("0", "2", "0", "2")
    with pytest.raises(UserError, match=rf"{flag} is 2, but torchrun started 2 process"):
        run_in_processes(train_or_evaluate, arguments(flag, "2"))


@pytest.mark.parametrize("kind", ["UserError", "StageError", "KeyError"])
def test_errors_of_started_processes_keep_their_message(
    variables: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from torch.multiprocessing import ProcessRaisedException

    raised = kind if kind == "KeyError" else f"u2seg.errors.{kind}"
    text = (
        f"-- Process 1 terminated with the following error:\nTraceback:\n  File x\n{raised}: a.jpg"
    )

    def launch(*_: Any, **__: Any) -> None:
        raise ProcessRaisedException(text, 1, 2)

    monkeypatch.setattr(processes, "launch", launch)
    with pytest.raises((UserError, StageError, ProcessRaisedException)) as caught:
        run_in_processes(train_or_evaluate, arguments())
    expected = "ProcessRaisedException" if kind == "KeyError" else kind
    assert type(caught.value).__name__ == expected
    assert str(caught.value) == (text if kind == "KeyError" else "a.jpg")


def interrupted(args: Any) -> None:
    raise Interrupted(f"kept by {args.config_file}")


def test_an_interrupted_training_of_started_processes_says_what_is_kept(
    variables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def launch(work: Any, *_: Any, args: Any, **__: Any) -> None:
        torch.multiprocessing.spawn(in_rank, (work, args), nprocs=1)

    monkeypatch.setattr(processes, "launch", launch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(Interrupted, match=f"^kept by {re.escape(str(BASE_CONFIG))}$"):
        run_in_processes(interrupted, arguments("--num-gpus", "2", "--eval-only"))


def in_rank(_rank: int, work: Any, args: Any) -> None:
    work(*args)


def test_sync_bn_is_not_trained_on_a_cpu() -> None:
    published, cpu = CONFIGS / "Base-U2Seg-R50-FPN.yaml", ["MODEL.DEVICE", "cpu"]
    message = (
        r"MODEL.RESNETS.NORM is SyncBN, which only GPUs can train, and MODEL.DEVICE is cpu: set "
        r"MODEL.RESNETS.NORM BN, MODEL.FPN.NORM BN \(or GN\)|"
        r"MODEL.FPN.NORM is SyncBN.*MODEL.FPN.NORM BN, MODEL.RESNETS.NORM BN \(or GN\)"
    )
    with pytest.raises(UserError, match=message):
        build_cfg(published, cpu, training=True)
    norms = ["MODEL.RESNETS.NORM", "GN", "MODEL.FPN.NORM", "BN"]
    model = build_cfg(published, [*cpu, *norms], training=True).MODEL
    assert (model.RESNETS.NORM, model.FPN.NORM) == ("GN", "BN")
    # in inference both are the same function, so evaluation and demo go on
    assert build_cfg(published, cpu).MODEL.RESNETS.NORM == "BN"


CALM = [
    "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "4", "SOLVER.BASE_LR", "0.002",
    "INPUT.MIN_SIZE_TRAIN", "(64, 96)", "U2SEG.TRAIN.COMMON_PADDING", "True",
    # few layers, and few proposals whose scores lie far apart: rounding must not change their order
    "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "64",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "20", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20",
]  # fmt: skip


def last_losses(folder: Path) -> dict[str, float]:
    with (folder / "losses.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    return {name: float(value) for name, value in row.items() if "loss" in name}


def weights(folder: Path, iteration: int) -> Any:
    """Return all weights of a checkpoint as one vector."""
    import torch

    from u2seg.io.checkpoints import load_checkpoint

    model = load_checkpoint(folder / f"model_{iteration:07d}.pth")["model"]
    return torch.cat([model[name].double().ravel() for name in sorted(model)])


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Four iterations of the same global batches of two sizes: the same losses and weights."""
    labels = make_labels(tmp_path, tuple(f"{number}.png" for number in range(8)))
    words = [*data_words(labels, tmp_path / "one"), *CALM]
    train_or_evaluate(arguments(*words))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--standalone", str(ROOT / "tools" / "train_net.py")]
    words += ["OUTPUT_DIR", str(tmp_path / "two")]
    done = subprocess.run(
        [*launcher, "--config-file", str(BASE_CONFIG), *words],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = last_losses(tmp_path / "one"), last_losses(tmp_path / "two")
    assert one == pytest.approx(two, abs=1e-4)
    assert one["total_loss"] > 1
    runs = [[weights(tmp_path / n, i) for i in range(4)] for n in ("one", "two")]
    learnt = float((runs[0][3] - runs[0][0]).norm())
    apart = [float((a - b).norm()) for a, b in zip(*runs, strict=True)]
    # Rounding moves an activation across a ReLU's kink now and then.
    assert max(apart) < 0.01 * learnt
    assert apart[0] < 1e-5 < learnt
    log = (tmp_path / "two" / "log.txt").read_text()
    assert "World size: 2" in log
    alone = (tmp_path / "one" / "log.txt").read_text()
    assert "World size: 2" not in alone and "World size: 1" in alone
    assert (tmp_path / "two" / "evaluation" / "metrics.json").is_file()
    # and one process may go on where two were
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for name in ("model_0000001.pth", "model_0000001.pth.sha256", "train_config.yaml"):
        shutil.copy(tmp_path / "two" / name, mixed)
    (mixed / "last_checkpoint").write_text("model_0000001.pth")
    train_or_evaluate(arguments("--resume", *words, "OUTPUT_DIR", str(mixed)))
    assert last_losses(mixed) == pytest.approx(two, abs=1e-4)


def test_statistics_of_the_first_process_and_its_average(tmp_path: Path) -> None:
    """Running means 20 and 21, averages 15 and 16, counts 30 and 31."""
    url = f"file://{tmp_path / 'meeting'}"
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROCESS, str(rank), url],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    found = [process.communicate(timeout=240) for process in processes]
    assert [out.split() for out, _ in found] == [
        ["20.0", "15.0", "30", "0.0"],
        ["20.0", "15.0", "30", "1.0"],  # in no checkpoint, so a process's own
    ], found
