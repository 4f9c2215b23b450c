"""Pickles are read without anything of them being run, and what is no weights is refused in a sentence."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys

import hostile_pickles
import numpy as np
import pytest
import torch

from imaginet_build.converting import reading, torchfiles
from imaginet_build.converting.inert import Array, Record, Unreadable

TENSORS = {
    "float": torch.arange(24.0).reshape(2, 3, 4),
    "a view": torch.arange(24.0).reshape(4, 6).T[1:4, ::2],
    "half": torch.arange(6).half(),
    "brain": torch.arange(6).to(torch.bfloat16),
    "double": torch.arange(6).double(),
    "long": torch.arange(6),
    "bool": torch.tensor([True, False]),
    "byte": torch.arange(6, dtype=torch.uint8),
    "one": torch.tensor(3.5),
    "none": torch.zeros(0, 3),
}


def saved(value, **how) -> memoryview:
    stream = io.BytesIO()
    torch.save(value, stream, **how)
    return memoryview(stream.getvalue())


@pytest.mark.parametrize("form", ["zip", "before 1.6", "pickle 2", "pickle 4", "pickle 5"])
def test_tensors_come_back_bit_for_bit(form):
    shared = TENSORS["float"]
    whole = TENSORS | {"again": shared[1], "parameter": torch.nn.Parameter(torch.ones(2) / 3)}
    if form.startswith("pickle"):
        data = memoryview(pickle.dumps(whole, int(form[-1])))
    else:
        data = saved(whole, _use_new_zipfile_serialization=form == "zip")
    found = torchfiles.read(data)
    assert set(found) == set(whole)
    for name, wanted in whole.items():
        got = found[name].array()
        assert got.shape == tuple(wanted.shape), name
        assert (
            got.tobytes() == wanted.detach().contiguous().view(torch.uint8 if wanted.dim() else wanted.dtype).numpy().tobytes()
        )


def test_a_whole_module_is_a_record_with_its_tensors_and_plain_attributes():
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    for form in (True, False):
        found = torchfiles.read(saved(network, _use_new_zipfile_serialization=form))
        assert isinstance(found, Record)
        tensors, modules = reading.describe(found)
        assert set(tensors) == set(network.state_dict())
        assert modules["0"]["class"] == "Linear"
        assert modules["0"]["in_features"] == 3
        assert modules["1"]["eps"] == pytest.approx(1e-5)


def test_numpys_numbers_are_numbers_and_its_small_arrays_lists():
    found = torchfiles.read(memoryview(pickle.dumps({"a": np.float64(2.5), "b": np.array([36, 36]), "c": np.int64(-3)})))
    assert (found["a"], found["c"]) == (2.5, -3)
    assert isinstance(found["b"], Array)
    assert reading.plain(found["b"]) == [36, 36]
    big = torchfiles.read(memoryview(pickle.dumps(np.zeros((100, 100)))))
    assert reading.plain(big) is None


@pytest.mark.parametrize("name", hostile_pickles.running(None))
def test_nothing_is_run(name, tmp_path):
    marker = tmp_path / "ran"
    data = hostile_pickles.running(marker)[name]
    with contextlib.suppress(Unreadable):
        torchfiles.read(memoryview(data))
    assert not marker.exists()


IN_BOUNDS = ["lists within lists", "tuples a million deep", "a network within itself", "networks within each other"]


@pytest.mark.parametrize("name", [n for n in hostile_pickles.bombs() if not n.startswith(("a memo", "a byte array"))])
def test_what_asks_for_more_than_weights_need_is_refused(name):
    data = memoryview(hostile_pickles.bombs()[name])
    try:
        found = torchfiles.read(data)
        tensors, _ = reading.describe(reading.choose(found, "")[1])
        for tensor in tensors.values():
            tensor.array()
    except Unreadable:
        return
    assert name in IN_BOUNDS
    assert not tensors


@pytest.mark.parametrize("name", hostile_pickles.damaged())
def test_damaged_files_are_refused_in_a_sentence(name):
    data = memoryview(hostile_pickles.damaged()[name])
    with pytest.raises(Unreadable):
        reading.convert(data, "")


def test_every_beginning_of_a_checkpoint_is_refused():
    for form in (True, False):
        data = saved({"weight": torch.arange(300.0)}, _use_new_zipfile_serialization=form)
        for end in range(0, len(data), 97):
            with pytest.raises(Unreadable):
                torchfiles.read(data[:end])


BROKEN = """
import sys, zipfile
import encodings.ascii, encodings.latin_1
import numpy as np
from imaginet_build.converting import jail, reading, torchfiles
from imaginet_build.converting.inert import Unreadable
data = sys.stdin.buffer.read()
chance = np.random.Generator(np.random.PCG64(7))
jail.close(memory=2**28, seconds=120, output=2**10)
refused = 0
for _ in range(400):
    broken = bytearray(data)
    for at in chance.integers(len(data), size=chance.integers(1, 4)):
        broken[at] = chance.integers(256)
    try:
        tensors, _ = reading.describe(reading.choose(torchfiles.read(memoryview(bytes(broken))), "")[1])
        for tensor in tensors.values():
            tensor.array()
    except Unreadable:
        refused += 1
sys.stdout.write(str(refused))
sys.stdout.flush()
"""


@pytest.mark.parametrize("form", ["zip", "before 1.6", "pickle"])
def test_bytes_changed_at_random_are_read_or_refused_and_nothing_else(form):
    """In the jail, whose limit of memory stands before what a changed length may ask for."""
    value = {"G_ema": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}, "step": 3}
    data = pickle.dumps(value) if form == "pickle" else bytes(saved(value, _use_new_zipfile_serialization=form == "zip"))
    single = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", BROKEN], input=data, capture_output=True, check=False, env=single, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert int(done.stdout) > 40


def test_a_network_of_tensorflow_is_named_as_such():
    network = b"\x80\x04cdnnlib.tflib.network\nNetwork\n)\x81"
    with pytest.raises(Unreadable, match=r"networks of TensorFlow.*legacy\.py"):
        reading.convert(memoryview(network * 1 + network[2:] + network[2:] + b"\x87."), "")


def test_tensors_that_repeat_each_other_do_not_become_a_file_without_end(tmp_path):
    value = torch.zeros(1000)
    data = memoryview(pickle.dumps({f"weight{i}": value for i in range(1000)}))
    with (tmp_path / "out").open("wb") as out, pytest.raises(Unreadable, match="repeat each other"):
        reading.write(out.fileno(), reading.describe(torchfiles.read(data))[0], {}, limit=2 * len(data))


def test_the_network_is_found_by_its_usual_name_or_by_the_one_given():
    def table(**networks):
        return torchfiles.read(saved({name: {"weight": torch.ones(2)} for name in networks} | {"step": 3}))

    assert reading.choose(table(D=1, netG_state_dict=1), "")[0] == "netG_state_dict"
    assert reading.choose(table(G=1, G_ema=1), "")[0] == "G_ema"
    assert reading.choose(table(G=1, mine=1), "mine")[0] == "mine"
    with pytest.raises(
        Unreadable, match="it holds D, mine, step, none of the usual names of a generator: choose one with --entry"
    ):
        reading.choose(table(D=1, mine=1), "")
    with pytest.raises(Unreadable, match="no 'you'"):
        reading.choose(table(D=1), "you")
    with pytest.raises(Unreadable, match="one network alone"):
        reading.choose(torchfiles.read(saved({"weight": torch.ones(2)})), "G_ema")
