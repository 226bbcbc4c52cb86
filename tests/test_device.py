"""The device that a study works on: its name, who may use it, who refuses it. Needs no GPU."""

from __future__ import annotations

import ctypes
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from paretune.errors import StepFailed, StudyError, VerificationFailed, ran_out_of_memory
from paretune.evaluators.catalogue import metric
from paretune.evaluators.compute.timing import Patience, time_runner
from paretune.evaluators.devices import cuda, here
from paretune.evaluators.devices.cuda import Driver, Gpu, driver, read_driver
from paretune.evaluators.devices.here import device_name, device_problem, gpu_of, processor
from paretune.evaluators.energy.meters import find_meter
from paretune.evaluators.energy.use import host_row
from paretune.evaluators.environment import doctor, environment
from paretune.evaluators.memory import probe
from paretune.evaluators.metric import Evidence, Peak, StageCost, Timings
from paretune.reports.export.prove import _at_home
from paretune.search.engines.attempt import attempt
from paretune.search.quote import matrix_rate
from paretune.search.records import Ask
from paretune.search.rules import tariff
from paretune.search.study import Study
from paretune.search.subject import environment_pairs, load_material
from paretune.search.workshop import Workshop
from paretune.spaces import trainer
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.configuration import Configuration
from paretune.spaces.device import CPU, computing_on, to_the_bit
from paretune.spaces.families import family_of
from paretune.spaces.paper import Paper, Workload
from paretune.spaces.profile import GROUPS, Format, Head
from paretune.spaces.recipe import Recipe
from paretune.spaces.runtimes import RUNTIMES, onnx_runner, refusals
from paretune.spaces.runtimes.onnx_runner import OnnxRunner
from paretune.spaces.runtimes.packed_layers import filled_product
from paretune.spaces.runtimes.packed_module import packed_module, part_name
from paretune.spaces.runtimes.packing import packed
from paretune.spaces.specimen import MemoryBench
from paretune.spaces.structure import importance, observe
from paretune.spaces.task import Batch
from paretune.spaces.technique import Targets
from paretune.spaces.training import FinetuneStep

H100 = Gpu(0, "NVIDIA H100 80GB HBM3", 85_000_000_000, "GPU-00000000-0000-0000-0000-000000000001")
L4 = Gpu(1, "NVIDIA L4", 24_000_000_000, "GPU-00000000-0000-0000-0000-000000000002")


@pytest.fixture
def box(monkeypatch) -> None:
    """A machine with two GPUs, whose driver runs CUDA 13, and a torch for CUDA 13."""
    monkeypatch.setattr(here, "driver", lambda: Driver((13, 0), (H100, L4)))
    monkeypatch.setattr(here, "torch_cuda", lambda: "13.0")


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(here, "driver", lambda: None)


class FakeLibrary:
    """`libcuda` of a machine with two boards."""

    def __init__(self, boards=(H100, L4), failing: bool = False):
        self.boards, self.failing = boards, failing

    def cuInit(self, flags):
        return 100 if self.failing else 0

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.boards)
        return 0

    def cuDriverGetVersion(self, version):
        version._obj.value = 12080
        return 0

    def cuDeviceGet(self, handle, index):
        handle._obj.value = index
        return 0

    def cuDeviceGetName(self, name, size, handle):
        name.value = self.boards[handle.value].name.encode()
        return 0

    def cuDeviceTotalMem_v2(self, size, handle):
        size._obj.value = self.boards[handle.value].memory_bytes
        return 0

    def cuDeviceGetUuid_v2(self, uuid, handle):
        ctypes.memmove(uuid, bytes([0] * 15 + [handle.value + 1]), 16)
        return 0


def test_the_driver_names_its_gpus_by_the_numbers_of_torch():
    assert read_driver(FakeLibrary()) == Driver((12, 8), (H100, L4))


def test_an_old_driver_is_asked_in_its_own_words(monkeypatch):
    ask = FakeLibrary.cuDeviceGetUuid_v2
    monkeypatch.delattr(FakeLibrary, "cuDeviceGetUuid_v2")
    monkeypatch.setattr(FakeLibrary, "cuDeviceGetUuid", ask, raising=False)
    assert read_driver(FakeLibrary()).gpus == (H100, L4)


@pytest.mark.parametrize("library", [FakeLibrary(failing=True), FakeLibrary(boards=())])
def test_a_driver_that_shows_no_gpu_is_none(library):
    assert read_driver(library) is None


def test_a_machine_without_the_library_has_no_driver(monkeypatch):
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-nowhere.so")
    assert driver.__wrapped__() is None


def test_a_device_names_what_computes(box):
    assert device_name("cuda:1") == "NVIDIA L4"
    assert device_name("cuda") == H100.name
    assert device_name("here") == device_name("server-cpu-thread") == processor()
    assert gpu_of("here") is None


def test_what_this_machine_lacks_is_said_with_what_it_has(box, monkeypatch):
    assert device_problem("here") is None
    assert device_problem("cuda") is None
    wanting = device_problem("cuda:2")
    assert wanting == (
        "this machine has here (the CPU), cuda:0 (NVIDIA H100 80GB HBM3), cuda:1 (NVIDIA L4); "
        "choose one of these"
    )
    monkeypatch.setattr(here, "torch_cuda", lambda: "14.1")
    assert "update the driver, or install torch for CUDA 13" in device_problem("cuda")
    monkeypatch.setattr(here, "torch_cuda", lambda: None)
    assert "install torch for CUDA 13" in device_problem("cuda")


def test_the_build_of_torch_is_known_without_importing_it():
    assert here.torch_cuda() == torch.version.cuda


def study(**changes) -> Study:
    return Study.from_dict(
        {
            "model": "nowhere",
            "task": {"name": "nowhere.csv"},
            "objectives": ["accuracy", "latency_p50"],
            **changes,
        }
    )


def test_a_study_for_a_gpu_that_is_not_here_is_refused_before_anything_is_read(no_gpu, tmp_path):
    with pytest.raises(StudyError, match=r"workload.device is 'cuda', but this machine has no"):
        load_material(study(workload={"device": "cuda"}), tmp_path / "data")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workload": {"device": "cuda:x"}}, "unknown device 'cuda:x'; did you mean 'cuda:N'?"),
        ({"workload": {"device": "gpu"}}, "unknown device 'gpu'"),
        (
            {"workload": {"device": "cuda"}, "settings": {"device": "server-cpu-thread"}},
            "stands for a CPU, the workload's is cuda; drop it",
        ),
        ({"workload": {"device": "cuda"}, "budget": {"kwh": 1.0}}, "limit minutes"),
        ({"workload": {"device": "cuda"}, "budget": {"usd": 1.0}}, "set settings.usd_per_hour"),
        (
            {"workload": {"device": "cuda"}, "engine": {"kind": "ray"}},
            "must set aside a GPU where workload.device is cuda",
        ),
        (
            {
                "workload": {"device": "cuda:1"},
                "engine": {"kind": "ray", "per_trial": {"cpu": 1.0, "gpu": 0.5}},
            },
            "Ray gives each worker its GPU; write cuda",
        ),
    ],
)
def test_a_device_that_no_machine_can_have_is_an_error_of_the_study(changes, words):
    with pytest.raises(StudyError) as caught:
        study(**changes)
    assert words in str(caught.value)


def test_a_gpu_is_part_of_every_key_and_the_cpu_is_what_keys_meant_before(box):
    on_cpu, on_gpu = dict(environment_pairs(1)), dict(environment_pairs(1, "cuda:1"))
    assert "device" not in on_cpu
    assert on_gpu["device"] == "NVIDIA L4"
    assert {name: on_gpu[name] for name in on_cpu} == on_cpu


def test_the_doctor_lists_gpus_and_says_which_cannot_be_used(box, monkeypatch):
    rows = {row.what: row for row in doctor()}
    assert (rows["cuda:0"].how, rows["cuda:1"].how) == ("present", "present")
    assert "NVIDIA L4, 24 GB; set `workload.device: cuda:1`" in rows["cuda:1"].detail
    monkeypatch.setattr(here, "torch_cuda", lambda: None)
    (row,) = [row for row in doctor() if row.what == "cuda:0"]
    assert row.how == "absent"
    assert "install torch for CUDA" in row.detail


def test_the_doctor_says_where_there_is_no_gpu(no_gpu):
    (row,) = [row for row in doctor() if row.what == "GPU"]
    assert row.how == "absent"


def test_the_environment_of_a_run_names_its_gpus(box):
    found = environment()["gpus"]
    assert [gpu["name"] for gpu in found] == [H100.name, L4.name]
    assert json.loads(json.dumps(found)) == found


class Nvml:
    """`pynvml` with one board, found by its own name."""

    class NVMLError(Exception):
        pass

    asked: list[str]

    def __init__(self):
        self.asked = []

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self.asked.append(uuid)
        if uuid != L4.uuid:
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return 1000


def test_a_meter_is_that_of_the_board_and_not_of_its_number(box, monkeypatch):
    nvml = Nvml()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    assert find_meter(Workload(device="cuda:1")).source == "measured"
    absent = find_meter(Workload(device="cuda:0"))
    assert nvml.asked == [L4.uuid, H100.uuid]
    assert absent.reason == "NVML cannot read NVIDIA H100 80GB HBM3, cuda:0: Not Found"


class Answering:
    """A runner that answers at once."""

    def logits(self, batch):
        return np.zeros((1, 2))


BATCH = Batch(*(np.zeros((1, 4), dtype=np.int64) for _ in range(4)))


def test_a_timing_says_which_gpu_it_is_of_and_leaves_the_processors_share_out(box):
    found = time_runner(Answering(), BATCH, Workload(device="cuda:1"), patience=Patience(repeats=3))
    assert (found.device, found.cpu_share) == ("NVIDIA L4", None)
    found = time_runner(Answering(), BATCH, Workload(), patience=Patience(repeats=3))
    assert found.device == processor()
    assert found.cpu_share is not None


PROFILE = family_of("bert").profile(
    {"vocab_size": 43, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 40,
     "num_attention_heads": 4, "max_position_embeddings": 64},
    Head("classification", 3),
)  # fmt: skip


def evidence(device: str, peak: Peak | None) -> Evidence:
    timings = Timings((0.1,) * 20, 1, device_name(device))
    stages = (StageCost("key", "train.finetune", 10.0, True, False, "key"),)
    workload = Workload(device=device)
    return Evidence(Paper(PROFILE), workload, timings=timings, peak=peak, stages=stages)


def test_the_peak_of_a_gpu_is_a_figure_of_its_own(box):
    row = metric("peak_gpu_memory")
    figure = row.evaluate(evidence("cuda", Peak(9, 8, gpu_bytes=123)))
    assert (figure.value, figure.unit) == (123.0, "byte")
    assert dict(figure.conditions)["device"] == H100.name
    assert row.evaluate(evidence("here", Peak(9, 8))).reason == "the workload is the CPU's"
    assert "does not say" in row.evaluate(evidence("cuda", Peak(9, 8))).reason
    assert row.evaluate(evidence("cuda", Peak(None, reason="killed"))).reason == "killed"
    assert "no fresh process" in row.evaluate(evidence("cuda", None)).reason


def test_a_process_without_a_gpu_has_no_peak_there(tmp_path):
    assert probe.gpu_high_water_bytes(CPU) is None


def test_no_row_of_the_table_stands_for_a_gpu(box):
    told = evidence("cuda", None)
    assert host_row(replace(told, settings={"device": "server-cpu-thread"})) is None
    assert metric("training_energy").evaluate(told).value is None
    assert "set `usd_per_hour`" in metric("training_cost").evaluate(told).reason
    paid = replace(told, settings={"usd_per_hour": 3.6})
    assert metric("training_cost").evaluate(paid).value == pytest.approx(0.01)


def test_the_bill_of_a_search_on_a_gpu_is_not_the_processors(monkeypatch):
    monkeypatch.setattr("paretune.search.rules.processor", lambda: "AMD EPYC 1234")
    assert tariff(study()).watts is not None
    there = tariff(study(workload={"device": "cuda"}, settings={"usd_per_hour": 2.0}))
    assert (there.watts, there.price_per_hour, there.instance_per_hour) == (None, None, 2.0)


def test_the_matrix_rate_is_asked_of_the_device(monkeypatch):
    told = "import sys; print(len(sys.argv[3]))"
    monkeypatch.setattr("paretune.search.quote.GPU_PRODUCTS", told)
    assert matrix_rate(1, "cuda:11") == len("cuda:11")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        VerificationFailed("cannot open x: Failed to allocate memory for requested buffer"),
    ],
)
def test_memory_that_ran_out_while_answering_is_no_crash(error):
    def work(ask, prior, report):
        raise error

    record = attempt(work, Ask(1, Configuration(), 0, 0), None, lambda *_: None)
    assert record.failure.kind == "out_of_memory"
    assert record.failure.message


def test_other_errors_are_not_taken_for_memory():
    assert not ran_out_of_memory(RuntimeError("a shape is wrong"))
    assert not ran_out_of_memory(StepFailed("diverged", "the loss is nan"))


class Moved(torch.nn.Linear):
    """A module that remembers where it was sent, and stays."""

    def __init__(self):
        super().__init__(2, 2)
        self.places: list[str] = []

    def to(self, place):
        self.places.append(place)
        return self


def test_a_module_comes_back_from_its_device_whatever_happens():
    module = Moved()
    with pytest.raises(KeyError), computing_on("cuda:1", module):
        raise KeyError
    assert module.places == ["cuda:1", CPU]
    with computing_on(CPU, module):
        pass
    assert module.places == ["cuda:1", CPU]


def test_exactness_is_asked_of_torch_for_the_time_of_a_training_on_a_gpu(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with to_the_bit("cuda:0"):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    with to_the_bit(CPU):
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The devices that steps ask for, which they get as little as the machine has them."""
    found: list[str] = []

    def noting(device, *modules):
        found.append(device)
        return computing_on(CPU, *modules)

    for module in (trainer, observe):
        monkeypatch.setattr(module, "computing_on", noting)
    monkeypatch.setattr(trainer, "to_the_bit", lambda device: to_the_bit(CPU))
    return found


def test_training_and_its_teacher_go_to_the_bench_s_device(asked):
    from paretune.spaces.recipe import Loss

    losses = (Loss("task"), Loss("logits", 1.0, 2.0))
    recipe = Recipe(("*",), 8, 1, 4, 1e-2, losses=losses, teacher="teacher")
    given = Candidate(build(PROFILE, seed=0), Paper(PROFILE, recipe))
    FinetuneStep().run(given, 1, MemoryBench(given, device="cuda:3"), 0)
    # the teacher goes where the trained module is, which this test has kept on the CPU
    assert asked == ["cuda:3", CPU]


def test_importance_looks_at_activations_on_the_bench_s_device(asked, monkeypatch):
    monkeypatch.setattr(observe.torch, "device", lambda name: CPU)
    given = Candidate(build(PROFILE, seed=0), Paper(PROFILE))
    importance.block_influence(given, MemoryBench(given, device="cuda:3"))
    assert asked == ["cuda:3"]


def test_optimiser_states_are_kept_on_the_cpu():
    recipe = Recipe(("*",), 8, 1, 4, 1e-2)
    given = Candidate(build(PROFILE, seed=0), Paper(PROFILE, recipe))
    made = FinetuneStep().run(given, 1, MemoryBench(given), 0)
    assert {tensor.device.type for tensor in made.train_state.tensors.values()} == {CPU}


def test_a_workshop_says_where_its_study_computes():
    graph = object()
    assert Workshop(graph, None, None, 0).device == CPU
    assert Workshop(graph, None, None, 0, device="cuda:1").device == "cuda:1"


@pytest.mark.parametrize(
    "sides", [(1, 8, 8), (1, 37, 3), (16, 64, 64), (17, 64, 64), (33, 40, 5), (128, 96, 24)]
)
def test_a_product_that_is_filled_up_is_exact(sides):
    rows, inner, outputs = sides
    rng = torch.Generator().manual_seed(0)
    left = torch.randint(-128, 128, (rows, inner), generator=rng).to(torch.int8)
    right = torch.randint(-127, 128, (outputs, inner), generator=rng).to(torch.int8)
    wanted = left.long() @ right.t().long()
    assert torch.equal(filled_product(left, right.t()).long(), wanted)


def test_what_a_gpu_multiplies_has_sides_that_it_takes(monkeypatch):
    seen = []

    def product(left, right):
        seen.append((*left.shape, right.shape[1]))
        return torch.zeros(left.shape[0], right.shape[1], dtype=torch.int32)

    monkeypatch.setattr(torch, "_int_mm", product)
    for rows, inner, outputs in ((1, 37, 3), (16, 8, 8), (200, 768, 2)):
        left = torch.zeros(rows, inner, dtype=torch.int8)
        right = torch.zeros(outputs, inner, dtype=torch.int8)
        assert filled_product(left, right.t()).shape == (rows, outputs)
    assert all(m > 16 and k % 8 == 0 and n % 8 == 0 for m, k, n in seen)
    assert seen[-1] == (200, 768, 8)


MIXES = {
    "fp32": {},
    "bf16": dict.fromkeys(GROUPS, Format("bf16")),
    "whole numbers": {
        "embeddings": Format("int4", 32), "attention": Format("int8"), "ffn": Format("int4", 32),
        "head": Format("int8"),
    },
    "bf16 outside": {"norm": Format("bf16"), "embeddings": Format("int8"), "ffn": Format("int4")},
}  # fmt: skip


@pytest.mark.parametrize("mix", list(MIXES))
def test_every_tensor_of_a_packed_module_moves_with_it(mix):
    """The meta device refuses a tensor that was left behind, as a GPU does."""
    profile = PROFILE.with_formats(MIXES[mix])
    module = build(profile, seed=0)
    values = dict(module.named_parameters())
    stored = {
        part_name(weight, part): tensor
        for weight in profile.weights()
        for part, tensor in packed(profile, weight, values[weight.name]).items()
    }
    moved = packed_module(profile, stored).to("meta")
    with torch.inference_mode():
        answer = moved(input_ids=torch.zeros(2, 8, dtype=torch.int64, device="meta")).logits
    assert (answer.device.type, tuple(answer.shape)) == ("meta", (2, 3))


def refused(name: str = "fp32") -> list[str]:
    profile = PROFILE.with_formats({"ffn": Format(name)})
    return RUNTIMES["onnxruntime"].objections(Paper(profile), {}, Targets(device="cuda:0"))


def test_onnxruntime_is_refused_on_a_gpu_that_its_package_cannot_use(monkeypatch):
    monkeypatch.setattr(refusals, "_onnx_takes_gpus", lambda: False)
    (reason,) = refused()
    assert "install onnxruntime-gpu" in reason
    monkeypatch.setattr(refusals, "_onnx_takes_gpus", lambda: True)
    assert refused() == []
    (reason,) = refused("int8")
    assert "int8 on the CPU alone" in reason
    assert RUNTIMES["onnxruntime"].objections(Paper(PROFILE), {}, Targets()) == []


class Session:
    """An inference session that starts with the providers that it can."""

    able: tuple[str, ...]
    asked: list[object]

    def __init__(self, path, options, providers):
        type(self).asked = providers
        self.providers = [
            p for p in (q if isinstance(q, str) else q[0] for q in providers) if p in self.able
        ]

    def get_providers(self):
        return self.providers


def test_onnxruntime_never_goes_on_with_the_cpu_without_a_word(monkeypatch):
    monkeypatch.setattr(onnx_runner.onnxruntime, "InferenceSession", Session)
    Session.able = ("CPUExecutionProvider",)
    OnnxRunner(Path("model.onnx"), 1)
    with pytest.raises(VerificationFailed, match="does not compute on cuda:1"):
        OnnxRunner(Path("model.onnx"), 1, "cuda:1")
    Session.able = ("CUDAExecutionProvider", "CPUExecutionProvider")
    OnnxRunner(Path("model.onnx"), 1, "cuda:1")
    assert Session.asked[0] == ("CUDAExecutionProvider", {"device_id": 1})


def test_a_folder_made_on_a_gpu_is_proved_on_the_cpu_where_there_is_none(no_gpu):
    assert _at_home(Workload(device="cuda", batch=3)) == Workload(device="here", batch=3)
    assert _at_home(Workload(device="server-cpu-thread")).device == "server-cpu-thread"


def test_a_folder_made_on_a_gpu_is_proved_there(box):
    assert _at_home(Workload(device="cuda:1")).device == "cuda:1"
