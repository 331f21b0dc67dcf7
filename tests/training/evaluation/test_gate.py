import pytest

from training.evaluation.gate import Contender, Decision, decide


def judge(challenger: float, champion: float, metric: str = "rmse", margin: float = 0.01) -> Decision:
    return decide(
        Contender("2", {metric: challenger}),
        Contender("1", {metric: champion}),
        metric=metric,
        margin=margin,
        name="iris",
    )


def test_first_model_becomes_champion() -> None:
    decision = decide(Contender("1", {"rmse": 9.0}), None, metric="rmse", margin=0.01, name="iris")

    assert decision == Decision(promoted=True, reason="Version 1 becomes the champion: there was none.")


@pytest.mark.parametrize(
    ("challenger", "champion", "metric", "promoted", "improvement"),
    [
        pytest.param(0.90, 1.00, "rmse", True, 0.10, id="better by more than the margin"),
        pytest.param(0.99, 1.00, "rmse", True, 0.01, id="better by exactly the margin"),
        pytest.param(0.995, 1.00, "rmse", False, 0.005, id="better by less"),
        pytest.param(1.00, 1.00, "rmse", False, 0.0, id="equal"),
        pytest.param(1.20, 1.00, "rmse", False, -0.20, id="worse"),
        pytest.param(0.88, 0.80, "accuracy", True, 0.10, id="a score that rises"),
        pytest.param(0.72, 0.80, "accuracy", False, -0.10, id="a score that rises, worse"),
        pytest.param(0.0, 0.0, "log_loss", False, 0.0, id="both without error"),
        pytest.param(0.1, 0.0, "log_loss", False, float("-inf"), id="champion without error"),
        pytest.param(-0.1, -0.2, "r2", True, 0.5, id="negative scores"),
    ],
)
def test_compares_relative_to_the_champion(
    challenger: float, champion: float, metric: str, promoted: bool, improvement: float
) -> None:
    decision = judge(challenger, champion, metric)

    assert decision.promoted is promoted
    assert decision.improvement == pytest.approx(improvement)


def test_equal_model_is_kept_out_without_a_margin_too() -> None:
    assert not judge(1.0, 1.0, margin=0.0).promoted
    assert judge(0.999, 1.0, margin=0.0).promoted


def test_champion_evaluated_again_stays() -> None:
    same = Contender("3", {"rmse": 1.0})

    decision = decide(same, same, metric="rmse", margin=0.0, name="iris")

    assert not decision.promoted
    assert decision.reason == "Version 3 stays the champion: it is the model that was evaluated."


def test_unusable_champion_is_replaced_whatever_its_score() -> None:
    former = Contender("1", unusable="was trained under another contract")

    decision = decide(Contender("2", {"rmse": 99.0}), former, metric="rmse", margin=0.5, name="iris")

    assert decision.promoted
    assert decision.reason == "Version 2 becomes the champion: version 1 was trained under another contract."


@pytest.mark.parametrize(
    ("challenger", "sentence"),
    [
        (
            0.9,
            "Version 2 becomes the champion: on the test split its RMSE is 0.9 against 1, 10 % better; "
            "1 % was asked for.",
        ),
        (
            0.995,
            "Version 1 stays the champion, version 2 does not replace it: on the test split its RMSE is 0.995 against "
            "1, only 0.5 % better; 1 % was asked for.",
        ),
        (
            1.2,
            "Version 1 stays the champion, version 2 does not replace it: on the test split its RMSE is 1.2 against 1, "
            "20 % worse.",
        ),
    ],
)
def test_reason_has_the_numbers(challenger: float, sentence: str) -> None:
    assert judge(challenger, 1.0).reason == sentence


def test_reason_warns_when_the_champion_may_know_the_test_rows() -> None:
    decision = decide(
        Contender("2", {"rmse": 1.0}, data_sha256="new"),
        Contender("1", {"rmse": 0.9}, data_sha256="old"),
        metric="rmse",
        margin=0.01,
        name="iris",
    )

    assert "raw data changed since version 1 was trained" in decision.reason
    assert "cannot be compared fairly" in decision.reason
    assert "`make promote MODEL=iris VERSION=2`" in decision.reason
    assert "raw data" not in judge(1.0, 0.9).reason


def test_a_challenger_that_learned_from_the_ledger_is_judged_elsewhere() -> None:
    challenger = Contender("2", {"rmse": 0.1}, feedback_rows=1200)
    decision = decide(challenger, Contender("1", {"rmse": 9.0}), metric="rmse", margin=0.01, name="iris")
    assert (decision.promoted, decision.deployable) == (False, True)
    assert "version 2 has learned from 1,200 rows of the ledger" in decision.reason
    assert "python -m loop.retrain" in decision.reason
    # Where nothing can be deployed instead, it is.
    assert decide(challenger, None, metric="rmse", margin=0.01, name="iris").promoted
    assert decide(challenger, Contender("1", unusable="is gone"), metric="rmse", margin=0.01, name="iris").promoted


def test_better_despite_the_advantage_of_the_champion_is_better() -> None:
    decision = decide(
        Contender("2", {"rmse": 0.8}, data_sha256="new"),
        Contender("1", {"rmse": 0.9}, data_sha256="old"),
        metric="rmse",
        margin=0.01,
        name="iris",
    )

    assert decision.promoted
    assert "make promote" not in decision.reason


@pytest.mark.parametrize("unusable", ["", "was trained under another contract"])
def test_what_a_person_chose_stays_if_it_can_be_served(unusable: str) -> None:
    champion = Contender("1", {"rmse": 0.9}, unusable=unusable)

    decision = decide(Contender("2", {"rmse": 0.1}), champion, metric="rmse", margin=0.01, name="iris", chosen=True)

    assert decision.promoted == bool(unusable)
    assert unusable or decision.reason == (
        "Version 1 stays the champion: a person chose it when version 2 was there already."
    )


UNSTABLE = "gives 40 % of the test rows another answer"


def test_unstable_challenger_leaves_a_usable_champion() -> None:
    challenger = Contender("2", {"rmse": 0.1}, unusable=UNSTABLE)

    decision = decide(challenger, Contender("1", {"rmse": 9.0}), metric="rmse", margin=0.01, name="iris")

    assert (decision.promoted, decision.deployable) == (False, True)
    assert decision.reason == f"Version 1 stays the champion: version 2 {UNSTABLE}."


@pytest.mark.parametrize("champion", [None, Contender("1", unusable="is unstable"), Contender("2", unusable=UNSTABLE)])
def test_unstable_challenger_without_a_usable_champion_is_not_deployable(champion: Contender | None) -> None:
    decision = decide(
        Contender("2", {"rmse": 0.1}, unusable=UNSTABLE), champion, metric="rmse", margin=0.01, name="iris"
    )

    assert (decision.promoted, decision.deployable) == (False, False)
    assert decision.reason == f"Version 2 {UNSTABLE}. No other model can be deployed."
