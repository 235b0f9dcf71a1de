"""What ``/metrics`` tells of the work: seconds by part and by stage, tokens per second, and the queue."""

from __future__ import annotations

import re

from .conftest import ended, spec


def test_metrics_tell_the_seconds_of_each_part_and_stage_and_the_tokens(service, client):
    fields = {"width": 128, "height": 128, "stages": 2, "stage2_sigmas": [0.9, 0.0]}
    made = service.store.add("job", spec(**fields))
    service.start()
    assert ended(service, made.id).error is None
    service.drain(60)
    service.store.add("job", spec())
    text = client.get("/metrics").text
    told = {name: float(value) for name, value in re.findall(r"^(ltx2_\S+) (\S+)$", text, re.M)}
    parts = {
        part: told[f'ltx2_seconds_total{{part="{part}"}}']
        for part in ("load", "text", "sampling", "decode", "encode")
    }
    assert all(seconds > 0 for seconds in parts.values())
    stages = [told[f'ltx2_sampling_seconds_total{{stage="{stage}"}}'] for stage in ("1", "upscale", "2")]
    assert all(seconds > 0 for seconds in stages)
    # Each is rounded to a millisecond.
    assert abs(sum(stages) - parts["sampling"]) < 0.01
    assert told["ltx2_tokens_total"] > 0
    expected = told["ltx2_tokens_total"] / parts["sampling"]
    assert abs(told["ltx2_tokens_per_second"] / expected - 1) < 0.01
    assert told['ltx2_jobs{state="queued"}'] == 1
    assert told['ltx2_resident_bytes{process="server"}'] > 10**6
