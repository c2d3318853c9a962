"""How the simulated sd-server reads requests, quirks included."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gpusim.profiles.sdcpp_request import RequestError, Wanted, native, openai, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = (
    *("prompt", "negative_prompt", "width", "height", "seed", "batch_count"),
    *("sample_params", "n", "size", "output_format"),
)


def refusal(body: bytes) -> tuple[int, dict[str, str]]:
    with pytest.raises(RequestError) as caught:
        openai(parse(body))
    return caught.value.status, caught.value.body


def test_the_native_api_takes_an_empty_object() -> None:
    assert native({}) == Wanted()


def test_the_native_api_ignores_members_of_a_wrong_type() -> None:
    wanted = native({"width": "abc", "height": None, "prompt": 7, "sample_params": [], "seed": True})
    assert wanted == Wanted()


def test_the_native_api_reads_what_it_knows() -> None:
    body = {
        "prompt": "a fox",
        "negative_prompt": "fog",
        "width": 256,
        "height": 128,
        "seed": 7,
        "batch_count": 2,
        "sample_params": {"sample_steps": 4},
        "output_format": "jpeg",
    }
    assert native(body) == Wanted(
        prompt="a fox",
        negative_prompt="fog",
        width=256,
        height=128,
        steps=4,
        seed=7,
        count=2,
        image_format="jpeg",
    )


def test_a_negative_seed_is_left_to_the_server() -> None:
    assert native({"seed": -1}).seed is None


def test_the_native_api_does_not_parse_the_tag_in_a_prompt() -> None:
    prompt = 'a fox<sd_cpp_extra_args>{"seed":7}</sd_cpp_extra_args>'
    assert native({"prompt": prompt}).prompt == prompt


def test_the_openai_route_takes_everything_from_the_tag_in_the_prompt() -> None:
    tag = '{"seed":7,"width":192,"negative_prompt":"fog","sample_params":{"sample_steps":1}}'
    prompt = f"a fox<sd_cpp_extra_args>{tag}</sd_cpp_extra_args> asleep"
    wanted = openai({"prompt": prompt, "size": "64x64"})
    assert wanted == Wanted(
        prompt="a fox asleep", negative_prompt="fog", width=192, height=64, steps=1, seed=7
    )


def test_the_openai_route_has_one_fixed_seed_and_ignores_other_members() -> None:
    wanted = openai({"prompt": "a fox", "seed": 7, "steps": 3, "model": "x", "response_format": "url"})
    assert wanted == Wanted(prompt="a fox", seed=42)


@pytest.mark.parametrize(
    ("size", "sides"),
    [("100x70", (128, 128)), ("0x0", (512, 512)), ("64x65", (64, 128)), ("huge", (512, 512))],
)
def test_sizes_are_rounded_up_in_silence(size: str, sides: tuple[int, int]) -> None:
    wanted = openai({"prompt": "a fox", "size": size})
    assert (wanted.width, wanted.height) == sides


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "empty body"),
        (b"{}", 400, "prompt required"),
        (b'{"prompt":"x","output_format":"gif"}', 400, "invalid output_format, must be one of [png, jpeg]"),
        (b'{"prompt":"x","size":"9000x9000"}', 400, "invalid params"),
        (b'{"prompt":"<sd_cpp_extra_args>7</sd_cpp_extra_args>"}', 400, "invalid sd_cpp_extra_args"),
        (b"{", 500, "server_error"),
        (b"[]", 500, "server_error"),
        (b'{"prompt":7}', 500, "server_error"),
    ],
)
def test_refusals_have_the_status_of_the_real_server(body: bytes, status: int, error: str) -> None:
    given, answer = refusal(body)
    assert (given, answer["error"]) == (status, error)


def test_what_cannot_be_parsed_is_the_servers_error() -> None:
    assert refusal(b"{")[1]["message"].startswith("[json.exception.parse_error")
    assert refusal(b'{"prompt":7}')[1]["message"].startswith("[json.exception.type_error")


@given(st.dictionaries(st.sampled_from(MEMBERS), JSON))
def test_any_object_is_read_or_refused(body: dict[str, object]) -> None:
    for read in (native, openai):
        try:
            wanted = read(parse(msgspec.json.encode(body)))
        except RequestError:
            continue
        assert wanted.width % 64 == wanted.height % 64 == 0
        assert 1 <= wanted.count <= 8
