"""The paper's tables: each published figure beside ours, ticked only where it is the same or an accident away."""

from __future__ import annotations

import pytest

from imaginet_build.baseline import papertables
from imaginet_build.baseline.metrics import Figures


def figures(accuracy: float, auc: float, half: float = 0.01) -> Figures:
    between = {"balanced_accuracy": [accuracy - half, accuracy + half], "auc": [auc - half, auc + half]}
    return {"balanced_accuracy": accuracy, "auc": auc, "intervals": between}


def test_whoever_reaches_the_published_figures_ticks_each_one() -> None:
    by_family = {name: figures(*pair) for name, (_, pair) in papertables.FAMILIES.items()} | {"vae": figures(0.5, 0.5)}
    by_content = {name: figures(*pair) for name, pair in papertables.CONTENT.items()}
    found = papertables.of_release(by_family, by_content, "social")
    titles = [row["test"] for row in found["rows"]]
    assert titles == ["GAN", "SD", "Midjourney", "DALL·E 3", "mean", "photos", "paintings", "faces", "uncategorized"]
    assert found["condition"] == "social"
    assert "reason" not in found
    assert {tick for row in found["rows"] for tick in row["tick"].values()} == {"equal"}
    mean = found["rows"][4]
    assert mean["ours"] == {"balanced_accuracy": pytest.approx(0.9589), "auc": pytest.approx(0.9930)}
    assert mean["ci95"]["auc"] == pytest.approx([0.9930 - 0.005, 0.9930 + 0.005])
    assert found["others"]["Corvi2022"] == {"balanced_accuracy": 0.5985, "auc": 0.6562}


def test_a_part_of_the_table_has_no_mean_and_other_images_are_said_to_be_others() -> None:
    found = papertables.of_release({"gan": figures(0.93, 0.95)}, {}, None)
    assert [row["test"] for row in found["rows"]] == ["GAN"]
    assert found["rows"][0]["tick"] == {"balanced_accuracy": "within", "auc": "outside"}
    assert found["rows"][0]["difference"]["auc"] == pytest.approx(-0.0386)
    assert "social-network chain" in found["reason"]
    none = papertables.of_release({"vae": figures(0.9, 0.9)}, {}, None)
    assert (none["rows"], none["reason"]) == ([], "the test has none of the parts that the paper reports")


@pytest.mark.parametrize(
    ("ours", "published", "between", "said"),
    [
        (0.93724, 0.9372, None, "equal"),
        (0.93726, 0.9372, None, None),
        (0.93726, 0.9372, (0.93, 0.94), "within"),
        (0.95, 0.9372, (0.94, 0.96), "outside"),
        (None, 0.9372, (0.94, 0.96), None),
    ],
)
def test_ticks(ours: float | None, published: float, between: tuple[float, float] | None, said: str | None) -> None:
    assert papertables.tick(ours, published, between) == said


def test_the_other_sets_of_the_paper_are_means_over_their_generators() -> None:
    twelve = {str(k): figures(0.85 + k / 100, 0.95) for k in range(12)}
    (row,) = papertables.of_set("Corvi", twelve)["rows"]
    assert row["published"] == {"balanced_accuracy": 0.8686, "auc": 0.9585}
    assert row["ours"] == {"balanced_accuracy": pytest.approx(0.905), "auc": pytest.approx(0.95)}
    assert papertables.of_set("Corvi", dict(list(twelve.items())[:11]))["rows"] == [], "eleven are not the paper's test"
    assert papertables.of_set("GenImage", twelve)["rows"] == []


def test_the_means_of_the_paper_are_those_of_its_rows() -> None:
    for k in (0, 1):
        rows = [pair[k] for _, pair in papertables.FAMILIES.values()]
        assert sum(rows) / 4 == pytest.approx(papertables.MEAN[k], abs=6e-5)
