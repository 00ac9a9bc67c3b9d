from __future__ import annotations

import pytest

from imgstored.errors import MaxPlatformError, MinPlatformError
from imgstored.manifest import load
from imgstored.manifest.platform import Platform, check_platform

HERE = Platform("7.0", "20190314T232247Z")


def wanting(base, **requirements):
    return load({**base, "requirements": requirements}, rules="import")


def test_an_image_without_requirements_runs_anywhere(base):
    check_platform(load(base, rules="import"), HERE)
    check_platform(wanting(base), HERE)
    check_platform(wanting(base, min_platform=None), HERE)


@pytest.mark.parametrize(
    "least",
    [
        {"7.0": "20190314T232247Z"},
        {"7.0": "20180101T000000Z", "8.0": "20990101T000000Z"},
        {"6.5": "20990101T000000Z"},
        {"6.5": "20990101T000000Z", "10.0": "20990101T000000Z"},
    ],
)
def test_a_new_enough_platform_will_do(base, least):
    check_platform(wanting(base, min_platform=least), HERE)


@pytest.mark.parametrize(
    "least", [{"7.0": "20190314T232248Z"}, {"7.1": "20120101T000000Z"}, {"10.0": "20120101T000000Z"}]
)
def test_an_older_platform_will_not(base, least):
    with pytest.raises(MinPlatformError) as caught:
        check_platform(wanting(base, min_platform=least), HERE)
    assert caught.value.code == "MinPlatform"
    assert caught.value.hint


@pytest.mark.parametrize(
    "most",
    [
        {"7.0": "20190314T232247Z"},
        {"7.1": "20120101T000000Z"},
        {"6.5": "20120101T000000Z", "10.0": "20120101T000000Z"},
    ],
)
def test_an_old_enough_platform_will_do(base, most):
    check_platform(wanting(base, max_platform=most), HERE)


@pytest.mark.parametrize("most", [{"7.0": "20100101T000000Z"}, {"6.5": "20990101T000000Z"}])
def test_a_newer_platform_will_not(base, most):
    with pytest.raises(MaxPlatformError):
        check_platform(wanting(base, max_platform=most), HERE)


def test_the_message_is_imgadms(base):
    """As imgadm 3.10.0 printed it."""
    with pytest.raises(MinPlatformError) as caught:
        check_platform(wanting(base, min_platform={"7.0": "20990101T000000Z"}), HERE)
    assert caught.value.message == (
        "current platform version, 7.0/20190314T232247Z, does not satisfy "
        'requirements.min_platform={"7.0":"20990101T000000Z"}'
    )


def test_on_an_unknown_host_nothing_is_checked(base):
    check_platform(wanting(base, min_platform={"7.0": "20990101T000000Z"}), None)


@pytest.mark.parametrize(
    "wants",
    [
        [],
        "none",
        5,
        {"min_platform": "7.0"},
        {"min_platform": []},
        {"min_platform": {}, "max_platform": {}},
        {"min_platform": {"7.0": 20990101}},
        {"min_platform": {"7.0": None}, "max_platform": {"7.0": {}}},
        # What `imgadm create` wrote on hosts whose sysinfo had no version.
        {"min_platform": {"undefined": "20990101T000000Z"}},
        {"max_platform": {"6.5\n": "20120101T000000Z"}},
    ],
)
def test_what_is_no_requirement_asks_for_nothing(base, wants):
    check_platform(load({**base, "requirements": wants}, rules="import"), HERE)


def test_a_requirement_counts_beside_one_that_is_none(base):
    with pytest.raises(MinPlatformError):
        check_platform(wanting(base, min_platform={"7.0": "20990101T000000Z", "x": 1}), HERE)


def test_an_odd_version_of_the_host_is_below_all(base):
    with pytest.raises(MinPlatformError):
        check_platform(wanting(base, min_platform={"6.5": "20120101T000000Z"}), Platform("", ""))
