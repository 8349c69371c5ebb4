"""Names of points."""

from trainer.interpolate.points import alpha_name


def test_points_are_named_as_wise_ft_names_them():
    assert [alpha_name(alpha) for alpha in (0, 0.5, 1)] == [
        "wise_ft_alpha=0.000",
        "wise_ft_alpha=0.500",
        "wise_ft_alpha=1.000",
    ]
