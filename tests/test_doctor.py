"""What this machine is, and what it can measure."""

import json
import subprocess
import sys

from paretune.evaluators.environment import doctor, environment


def test_the_environment_is_plain_data_about_this_machine():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"]
    assert found["threads"] >= 1
    assert found["memory_bytes"] > 10**8
    assert found["meters"]["here"]["name"]


def test_the_meter_of_an_environment_is_that_of_the_row_that_stands_for_it(monkeypatch):
    from paretune.evaluators.energy import meters

    monkeypatch.setattr(meters, "rapl_domains", lambda folder: ())
    meter = environment("server-cpu-thread")["meters"]["here"]
    assert meter["assumptions"]["device_row"] == "server-cpu-thread"


def test_every_finding_says_how_and_by_what():
    rows = doctor()
    assert {"latency", "peak memory", "energy", "carbon", "money", "disk"} <= {
        row.what for row in rows
    }
    assert all(row.detail for row in rows)
    assert all(row.how in {"measured", "modelled", "present", "absent"} for row in rows)


def test_energy_is_never_called_measured_without_a_counter(monkeypatch):
    from paretune.evaluators.energy import meters

    monkeypatch.setattr(meters, "rapl_domains", lambda folder: ())
    (energy,) = [row for row in doctor() if row.what == "energy"]
    assert energy.how in {"modelled", "absent"}


def test_the_doctor_and_the_catalogue_do_not_wait_for_torch():
    heavy = ("torch", "transformers", "onnxruntime", "sklearn", "optuna", "ray")
    program = (
        "import sys; from paretune.evaluators.environment import doctor; doctor();"
        "from paretune.evaluators.catalogue import metrics; metrics();"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
