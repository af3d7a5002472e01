"""Scores: statistics of a sub-network's own, the same images for all, and nothing changed by looking."""

import pytest
import torch
from torch import nn

from autoslim import Supernet, extract_network, trace_channels
from autoslim.baselines import MacCounter
from autoslim.extract import replace_tensors_
from autoslim.score import SupernetScorer, calibrate, evaluate
from autoslim.tasks import TASKS
from autoslim.testing.random_cnn import RandomCNN

TASK = TASKS["classification"]
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = [torch.randn(16, 3, 6, 6, dtype=torch.float64, generator=GENERATOR) for _ in range(3)]
LABELLED = [(x, torch.randint(0, 5, (16,), generator=GENERATOR)) for x in IMAGES]


@pytest.fixture
def net():
    model = RandomCNN([("inverted", 8), ("dense", 4)], seed=2).double()
    model.head = nn.Sequential(nn.Dropout(0.5), model.head)
    return Supernet(model, trace_channels(model, IMAGES[0])).train()


@pytest.mark.parametrize("which", ["max_widths", "min_widths"])
def test_statistics_are_the_mean_over_batches_of_what_the_subnetwork_sees(net, which):
    widths = getattr(net.graph, which)()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    buffers = calibrate(net, widths, IMAGES)
    small = extract_network(net.model, net.graph, widths).eval()
    first = next(m for m in small.modules() if isinstance(m, nn.Conv2d))
    name = next(n for n, m in net.model.named_modules() if isinstance(m, nn.BatchNorm2d))
    seen = [first(x).transpose(0, 1).flatten(1) for x in IMAGES]
    torch.testing.assert_close(buffers[f"{name}.running_mean"], torch.stack([s.mean(1) for s in seen]).mean(0))
    torch.testing.assert_close(buffers[f"{name}.running_var"], torch.stack([s.var(1) for s in seen]).mean(0))
    assert int(buffers[f"{name}.num_batches_tracked"]) == 3
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(m.training for m in net.modules())
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_instance_norms_with_statistics_have_their_own_too():
    norm = nn.InstanceNorm2d(8, track_running_stats=True)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 5, 1)).double()
    net = Supernet(model, trace_channels(model, IMAGES[0]))
    widths = net.graph.min_widths()
    buffers = calibrate(net, widths, IMAGES)
    first = extract_network(model, net.graph, widths)[0]
    seen = torch.stack([first(x).flatten(2) for x in IMAGES])
    torch.testing.assert_close(buffers["1.running_mean"], seen.mean((0, 1, 3)))
    torch.testing.assert_close(buffers["1.running_var"], seen.var(3).mean((0, 1)))
    assert norm.momentum == 0.1


def test_a_network_in_bfloat16_is_scored(net):
    small = Supernet(net.model.bfloat16(), net.graph)
    images = [(x.bfloat16(), y) for x, y in LABELLED]
    scorer = SupernetScorer(small, TASK, calibration=[x for x, _ in images], search=images)
    assert 0 < scorer.score(net.graph.min_widths()).loss < 10


def test_processes_without_train_images_reuse_all_the_same(net):
    base = net.graph.max_widths()
    trials = [base.replace({g.name: g.candidates[0]}) for g in net.graph.groups if g.frozen is None]
    scorer = SupernetScorer(net, TASK, calibration=[], search=LABELLED)
    scorer.samples(trials, base=base)
    with MacCounter() as less:
        scorer.samples(trials, base=base)
    with MacCounter() as all_:
        scorer.samples(trials)
    assert less.macs < all_.macs


def test_a_score_is_that_of_the_extracted_network(net):
    scorer = SupernetScorer(net, TASK, calibration=IMAGES, search=LABELLED)
    for seed in range(3):
        widths = net.graph.random_widths(seed)
        small = extract_network(net.model, net.graph, widths)
        replace_tensors_(small, scorer.buffers(widths))
        expected = evaluate(small, LABELLED, TASK).score
        assert scorer.score(widths).loss == pytest.approx(expected.loss, rel=1e-10)
        assert scorer.score(widths).accuracy == expected.accuracy
    many = [net.graph.random_widths(seed) for seed in range(3)]
    assert scorer.score_many(many) == [scorer.score(widths) for widths in many]
    assert scorer.judge(many[0], LABELLED) == scorer.score(many[0])


def test_evaluate_is_the_mean_over_images_in_eval_mode(net):
    model = net.model.train()
    score = evaluate(model, [(x[:5], y[:5]) for x, y in LABELLED], TASK).score
    assert model.training
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(x[:5]) for x in IMAGES])
    labels = torch.cat([y[:5] for _, y in LABELLED])
    assert score.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-12)
    assert score.accuracy == float((logits.argmax(1) == labels).double().mean())
