"""Meters replayed: a powercap folder, a fake NVML, a model under injected clocks."""

from itertools import count
from pathlib import Path

import pytest
from paretune.evaluators.devices.here import gpus, processor
from paretune.evaluators.devices.table import Device, device_row, devices, grids
from paretune.evaluators.energy import meters
from paretune.evaluators.energy.meter import NoMeter
from paretune.evaluators.energy.meters import find_meter
from paretune.evaluators.energy.model import UtilisationModel
from paretune.evaluators.energy.nvml import NvmlMeter
from paretune.evaluators.energy.rapl import RaplMeter, rapl_domains
from paretune.evaluators.energy.session import measure_power
from paretune.spaces.paper import Workload

ROW = Device("test", "thread", ("test",), 1.0, 5.0, "a data sheet", "2024", 0.1, "a list", "2024")


class Clock:
    """Seconds that pass when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def domain(folder: Path, name: str, energy_uj: int, range_uj: int = 1000) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder / "energy_uj"


def test_rapl_sums_packages_and_their_memory_but_no_other_part(tmp_path):
    package = domain(tmp_path / "intel-rapl:0", "package-0", 0, 10**9)
    core = domain(tmp_path / "intel-rapl:0:0", "core", 0, 10**9)
    dram = domain(tmp_path / "intel-rapl:0:1", "dram", 0, 10**9)
    psys = domain(tmp_path / "intel-rapl:1", "psys", 0, 10**9)
    meter = RaplMeter(rapl_domains(tmp_path))
    for path, joules in ((package, 3), (core, 2), (dram, 1), (psys, 100)):
        path.write_text(str(joules * 10**6))
    assert meter.joules() == 4
    assert dict(meter.assumptions()) == {"counters": "package-0+dram"}


def test_a_rapl_counter_that_wraps_around_goes_on(tmp_path):
    counter = domain(tmp_path / "intel-rapl:0", "package-0", 900)
    meter = RaplMeter(rapl_domains(tmp_path))
    counter.write_text("100")
    assert meter.joules() == pytest.approx(200e-6)
    counter.write_text("50")
    assert meter.joules() == pytest.approx(1150e-6)


def test_rapl_takes_its_idle_draw_while_it_sleeps(tmp_path):
    counter = domain(tmp_path / "intel-rapl:0", "package-0", 0, 10**12)
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        counter.write_text(str(int(clock.now * 30e6)))

    meter = RaplMeter(rapl_domains(tmp_path), sleep=sleep, clock=clock)
    assert meter.idle_watts() == pytest.approx(30)


def test_a_powercap_folder_without_counters_has_no_domain(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()
    assert rapl_domains(tmp_path) == ()
    assert rapl_domains(tmp_path / "nowhere") == ()


class FakeNvml:
    """A board that draws 100 W on a clock."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return 7_000_000 + int(self.clock.now * 100_000)


def test_nvml_counts_millijoules_since_the_meter_was_made():
    clock = Clock()
    meter = NvmlMeter(FakeNvml(clock), 0, sleep=clock.sleep, clock=clock)
    clock.now = 3.0
    assert meter.joules() == pytest.approx(300)
    assert meter.idle_watts() == pytest.approx(100)
    assert meter.source == "measured"


def test_the_model_draws_idle_plus_load():
    clock, cpu = Clock(), Clock()
    meter = UtilisationModel(ROW, 2, clock=clock, cpu_clock=cpu)
    clock.now, cpu.now = 10.0, 4.0
    # two threads idle at 1 W for 10 s, and 4 busy seconds at 5 - 1 W more
    assert meter.joules() == pytest.approx(2 * 10 + 4 * 4)
    assert meter.source == "modelled"
    assert dict(meter.assumptions())["device_row"] == "test"


def test_the_energy_of_an_answer_is_what_it_adds_to_idle():
    clock, cpu = Clock(), Clock()
    meter = UtilisationModel(ROW, 1, clock=clock, cpu_clock=cpu)

    def answer() -> None:
        clock.now += 0.2
        cpu.now += 0.1

    power = measure_power(meter, answer, clock=clock)
    assert power.joules_per_repeat == pytest.approx(0.1 * 4)
    assert power.stderr == pytest.approx(0, abs=1e-9)
    assert (power.source, power.n, power.idle_watts) == ("modelled", 5, 1.0)


def test_a_model_reads_clocks_and_takes_no_longer_than_it_must():
    clock, cpu = Clock(), Clock()

    def answer() -> None:
        clock.now += 0.005
        cpu.now += 0.005

    measure_power(UtilisationModel(ROW, 1, clock=clock, cpu_clock=cpu), answer, clock=clock)
    assert clock.now < 0.2


def test_the_energy_of_an_answer_by_a_counter_leaves_its_idle_draw_out(tmp_path):
    counter = domain(tmp_path / "intel-rapl:0", "package-0", 0, 10**12)
    clock = Clock()
    total = [0.0]

    def draw(seconds: float, watts: float) -> None:
        clock.sleep(seconds)
        total[0] += seconds * watts
        counter.write_text(str(int(total[0] * 1e6)))

    meter = RaplMeter(rapl_domains(tmp_path), sleep=lambda s: draw(s, 50), clock=clock)
    power = measure_power(meter, lambda: draw(0.1, 80), clock=clock)
    assert power.joules_per_repeat == pytest.approx(0.1 * (80 - 50), rel=1e-4)
    assert power.source == "measured"


def test_no_meter_gives_no_joules_but_a_reason():
    power = measure_power(NoMeter("nothing here"), lambda: None)
    assert power.joules_per_repeat is None
    assert power.reason == "nothing here"
    with pytest.raises(RuntimeError, match="nothing here"):
        NoMeter("nothing here").joules()


def test_a_draw_below_idle_is_no_figure(tmp_path):
    counter = domain(tmp_path / "intel-rapl:0", "package-0", 0, 10**12)
    clock, steps = Clock(), count()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        counter.write_text(str(10**7 * (next(steps) + 1)))

    meter = RaplMeter(rapl_domains(tmp_path), sleep=sleep, clock=clock)
    power = measure_power(meter, lambda: clock.sleep(0.5), clock=clock)
    assert power.joules_per_repeat is None
    assert "above its idle" in power.reason


def test_counters_come_before_the_model_and_the_model_before_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(meters, "processor", lambda: "AMD EPYC 1234")
    assert find_meter(Workload(), powercap=tmp_path).name == "utilisation model"
    domain(tmp_path / "intel-rapl:0", "package-0", 0)
    assert find_meter(Workload(), powercap=tmp_path).name == "rapl"
    monkeypatch.setattr(meters, "processor", lambda: "an abacus")
    absent = find_meter(Workload(), powercap=tmp_path / "nowhere")
    assert absent.source is None
    assert "an abacus" in absent.reason


def test_a_workload_for_another_device_is_not_metered_here(tmp_path, monkeypatch):
    monkeypatch.setattr(meters, "processor", lambda: "AMD EPYC 1234")
    assert find_meter(Workload(device="server-cpu-thread"), powercap=tmp_path).source == "modelled"
    absent = find_meter(Workload(device="phone"), powercap=tmp_path)
    assert "for phone, this machine is AMD EPYC 1234" in absent.reason


def test_a_row_that_stands_for_this_machine_is_its_model(tmp_path, monkeypatch):
    monkeypatch.setattr(meters, "processor", lambda: "an abacus")
    meter = find_meter(Workload(), device="server-cpu-thread", powercap=tmp_path)
    assert dict(meter.assumptions())["device_row"] == "server-cpu-thread"
    told = Workload(device="server-cpu-thread")
    assert "set `settings.device`" in find_meter(told, powercap=tmp_path).reason
    assert find_meter(told, device=told.device, powercap=tmp_path).source == "modelled"
    domain(tmp_path / "intel-rapl:0", "package-0", 0)
    assert find_meter(Workload(), device="server-cpu-thread", powercap=tmp_path).name == "rapl"


def test_a_gpu_that_is_not_here_has_no_meter():
    absent = find_meter(Workload(device="cuda:99"))
    assert absent.source is None
    assert "cuda:99" in absent.reason


@pytest.mark.gpu
def test_a_gpu_counts_joules():
    if not gpus():
        pytest.skip("this machine has no GPU")
    meter = find_meter(Workload(device="cuda"))
    assert meter.source == "measured", meter.reason
    assert meter.idle_watts() > 0


def test_every_row_of_the_tables_says_its_source():
    for row in devices().values():
        assert 0 < row.idle_watts < row.peak_watts
        assert row.usd_per_hour > 0
        assert all((row.power_source, row.power_date, row.price_source, row.price_date))
        assert row.watts(0) == row.idle_watts
        assert row.watts(1) == row.peak_watts
    assert len(grids()) > 40
    for row in grids().values():
        assert 0 < row.gco2e_per_kwh < 1000
        assert row.source
        assert row.year > 2015


def test_this_processor_has_a_name():
    assert processor()
    assert device_row("") is None
