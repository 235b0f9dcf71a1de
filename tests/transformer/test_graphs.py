"""Recorded steps: what is recorded again, what is replayed, and when a step is computed without a record.

Without CUDA a record computes its step again from the recorded tensors, as a graph would.
"""

from dataclasses import replace

import pytest
import torch

from ltx2_core.conditioning.patchify import video_positions
from ltx2_core.transformer import Perturbation, Perturbations, RopeMemory, Runner
from ltx2_core.transformer.graphs import CudaRecord, Graphs

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Again:
    """A record for any device, which fills the same output tensors each time."""

    def __init__(self, run):
        self._run = run
        self.out = tuple(None if t is None else t.clone() for t in run())

    def replay(self):
        for own, made in zip(self.out, self._run(), strict=True):
            if own is not None:
                own.copy_(made)


class Step:
    """Steps of one network with cached tables, with and without records."""

    def __init__(self, model, **options):
        self.model, self.memory, self.chunk_tokens = model, RopeMemory(), None
        self.graphs = Graphs(Again, devices=("cpu",), **options)

    @torch.inference_mode()
    def agrees(self, video, audio, **options):
        results = []
        for graphs in (None, self.graphs):
            rope = self.memory.tables(self.model, video, audio)
            run = Runner(self.model, graphs=graphs, chunk_tokens=self.chunk_tokens)
            results.append(run(video, audio, rope=rope, **options))
        return all(a is e or torch.equal(a, e) for a, e in zip(*results, strict=True))


@pytest.fixture
def clip(model, streams):
    return [make(model.config) for make in streams]


def longer(video):
    positions = video_positions(3, 2, 3, 24.0)
    return replace(video, tokens=torch.randn(2, positions.shape[2], 6), positions=positions)


def image(video, start=5):
    times = video.timesteps.repeat(1, video.tokens.shape[1])
    times[:, :start] = 0
    return replace(video, timesteps=times)


def test_steps_are_replayed_with_other_tokens_noise_and_text(model, clip):
    step, (video, audio) = Step(model), clip
    for number in range(3):
        changed = [
            replace(
                stream,
                tokens=stream.tokens + number,
                timesteps=stream.timesteps * 0.8**number,
                sigma=stream.sigma * 0.8**number,
                context=stream.context - number,
            )
            for stream in (video, audio)
        ]
        assert step.agrees(*changed)
    assert step.graphs.recorded == 1
    assert step.graphs.problem is None


def test_an_earlier_result_outlives_the_next_replay(model, clip):
    step, (video, audio) = Step(model), clip
    run = Runner(model, graphs=step.graphs)
    with torch.inference_mode():
        rope = step.memory.tables(model, video, audio)
        first = run(video, audio, rope=rope)
        held = [t.clone() for t in first]
        run(replace(video, tokens=-video.tokens), audio, rope=rope)
    assert all(torch.equal(a, e) for a, e in zip(first, held, strict=True))


def test_other_shapes_and_layouts_of_noise_are_recorded_by_themselves(model, clip):
    step, (video, audio) = Step(model), clip
    kinds = [
        (video, audio),
        (longer(video), audio),
        (image(video), audio),
        (image(video, 7), audio),
        (video, None),
    ]
    for _ in range(2):
        for given in kinds[:4]:
            assert step.agrees(*given)
    # Only one clip's tables are cached, so that the first clip is recorded again after a longer one.
    assert step.graphs.recorded > 4
    before = step.graphs.recorded
    assert step.agrees(*kinds[4])
    assert step.graphs.recorded == before + 1


def test_only_the_last_records_are_cached(model, clip):
    step, (video, audio) = Step(model, limit=2), clip
    for start in (2, 4, 6, 2):
        assert step.agrees(image(video, start), audio)
        assert len(step.graphs._records) <= 2
    assert step.graphs.recorded == 4
    step.graphs.clear()
    assert step.agrees(image(video, 2), audio)
    assert step.graphs.recorded == 5


def test_a_replay_reads_a_weight_that_was_written_into_and_a_replaced_one_is_recorded(model, clip):
    step, (video, audio) = Step(model), clip
    layer = model.transformer_blocks[1].ff.net[2]
    before = layer.weight
    assert step.agrees(video, audio)
    with torch.no_grad():
        layer.weight.add_(0.1)
    assert step.agrees(video, audio)
    assert step.graphs.recorded == 1
    layer.weight = torch.nn.Parameter(before.detach() * 2 - 0.1)
    assert step.agrees(video, audio)
    assert step.graphs.recorded == 2
    with torch.no_grad():
        before.sub_(0.1)
    layer.weight = before
    assert step.agrees(video, audio)


def test_what_cannot_be_recorded_is_computed_without_a_record(model, clip):
    video, audio = clip
    count = video.tokens.shape[1]
    skip = Perturbations((Perturbation(video_self_attention=[1]), Perturbation()))
    masked = replace(video, attention_mask=torch.rand(2, count, count))
    step = Step(model, max_tokens=count + audio.tokens.shape[1])
    assert step.agrees(masked, audio)
    assert step.agrees(video, audio, perturbations=skip)
    assert step.agrees(longer(video), audio)
    hook = model.transformer_blocks[0].register_forward_hook(lambda *given: None)
    assert step.agrees(video, audio)
    hook.remove()
    step.chunk_tokens = 5
    assert step.agrees(video, audio)
    step.chunk_tokens = None
    assert step.graphs.recorded == 0
    with torch.no_grad():
        assert step.agrees(video, audio)
        assert step.graphs.recorded == 1


def test_every_block_is_reported_before_a_replay(model, clip):
    step, blocks = Step(model), []
    for _ in range(2):
        assert step.agrees(*clip, on_block=blocks.append)
    assert blocks == [0, 1] * 4


def test_a_device_without_graphs_says_so_and_a_recorder_that_fails_is_not_used(model, clip, caplog):
    with torch.inference_mode():
        reason = Graphs().why_not(model.transformer_blocks, (clip[0].tokens, None), (None, None))
    assert reason is not None
    assert "the tokens are on cpu" in reason

    def fails(run):
        raise RuntimeError("no graphs today")

    step = Step(model)
    step.graphs = Graphs(fails, devices=("cpu",))
    assert step.agrees(*clip)
    assert step.agrees(*clip)
    assert step.graphs.problem == "RuntimeError: no graphs today"
    assert len(caplog.records) == 1


class Empty:
    """A record of another device's kernels: its results are right once, and no replay writes them."""

    def __init__(self, run):
        self.out = tuple(None if t is None else t.clone() for t in run())

    def replay(self):
        pass


def test_an_empty_record_is_a_failure_and_not_the_first_step_again(model, clip):
    step = Step(model)
    step.graphs = Graphs(Empty, devices=("cpu",))
    video, audio = clip
    assert step.agrees(video, audio)
    assert step.agrees(replace(video, tokens=video.tokens + 1), audio)
    assert step.graphs.recorded == 0
    assert "is empty" in step.graphs.problem


@pytest.mark.gpu
@needs_gpu
def test_a_cuda_graph_gives_what_the_kernels_give(model23, streams):
    model, memory = model23.to("cuda"), RopeMemory()
    video, audio = (make(model.config) for make in streams)
    video, audio = (
        replace(
            stream,
            **{name: getattr(stream, name).cuda() for name in ("tokens", "timesteps", "sigma", "context")},
        )
        for stream in (video, audio)
    )
    graphs = Graphs(CudaRecord)
    run = Runner(model, graphs=graphs)
    with torch.inference_mode():
        for number in range(3):
            given = replace(video, tokens=video.tokens + number)
            rope = memory.tables(model, given, audio)
            plain = model(given, audio, rope=rope)
            for a, e in zip(run(given, audio, rope=rope), plain, strict=True):
                torch.testing.assert_close(a, e, rtol=0, atol=1e-4)
    assert graphs.problem is None
    assert graphs.recorded == 1
    model.to("cpu")
