"""GPU instances, read from the urls that people write."""

from typing import Any

import pytest

from schemas.errors import Code, RejectedError
from schemas.ids import BackendId
from schemas.registry import KIND_OF, Backend, Protocol, Source, Wanted, decode, encode, from_url
from schemas.requests import Kind
from schemas.workflow import Workflow

NAME = BackendId("IMAGE_GEN_URL_1")


def backend(url: str = "http://gpu:8080", **members: Any) -> Backend:  # Any: whatever a backend may have
    return Backend(name=NAME, url=url, kind=Kind.IMAGE, **members)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://gpu:8080", backend()),
        ("https://gpu", backend("https://gpu")),
        ("http://gpu:8080/", backend()),
        ("http://gpu:8080/v2/", backend("http://gpu:8080/v2")),
        ("http://[::1]:8080", backend("http://[::1]:8080")),
        ("http://user:secret@gpu:8080", backend("http://user:secret@gpu:8080")),
        ("http://gpu:8080#part", backend()),
        ("sdcpp+http://gpu:8080", backend(protocol=Protocol.SDCPP)),
        ("openai_images+http://gpu:8080", backend(protocol=Protocol.OPENAI_IMAGES)),
        ("openai_images+https://gpu", backend("https://gpu", protocol=Protocol.OPENAI_IMAGES)),
        ("http://gpu:8080?slots=2", backend(slots=2)),
        ("http://gpu:8080?slots=64", backend(slots=64)),
        ("http://gpu:8080?models=a,b", backend(models=("a", "b"))),
        ("http://gpu:8080?models=Qwen/Qwen-Image", backend(models=("Qwen/Qwen-Image",))),
        ("http://gpu:8080?models=a,,b,", backend(models=("a", "b"))),
        ("http://gpu:8080?models=", backend()),
        ("http://gpu:8080?models=a+b", backend(models=("a b",))),
        ("http://gpu:8080?weight=2.5", backend(weight=2.5)),
        ("http://gpu:8080?api_key=k", backend(api_key="k")),
        ("http://gpu:8080?disconnect_cancels=true", backend(disconnect_cancels=True)),
        (
            "sdcpp+http://gpu:8080/x?slots=2&models=a&weight=2&api_key=k&disconnect_cancels=1",
            backend(
                "http://gpu:8080/x",
                protocol=Protocol.SDCPP,
                slots=2,
                models=("a",),
                weight=2.0,
                api_key="k",
                disconnect_cancels=True,
            ),
        ),
    ],
)
def test_a_url_says_what_an_instance_is(url: str, expected: Backend) -> None:
    assert from_url(NAME, url, Kind.IMAGE) == expected


def test_an_instance_of_which_nothing_is_said_has_one_slot_and_is_on() -> None:
    plain = from_url(NAME, "http://gpu:8080", Kind.IMAGE)

    assert (plain.slots, plain.weight, plain.disconnect_cancels) == (1, 1.0, False)
    assert (plain.wanted, plain.source) == (Wanted.ON, Source.CONFIG)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", Code.OUT_OF_RANGE),
        ("gpu:8080", Code.OUT_OF_RANGE),
        ("ftp://gpu", Code.OUT_OF_RANGE),
        ("http://", Code.OUT_OF_RANGE),
        ("http://:8080", Code.OUT_OF_RANGE),
        ("http://gpu:port", Code.OUT_OF_RANGE),
        ("http://gpu:0", Code.OUT_OF_RANGE),
        ("http://gpu:99999", Code.OUT_OF_RANGE),
        ("http://[::1", Code.OUT_OF_RANGE),
        ("comfy+http://gpu", Code.OUT_OF_RANGE),
        ("+http://gpu", Code.OUT_OF_RANGE),
        ("openai_stt+http://gpu", Code.OUT_OF_RANGE),
        ("http://gpu?slots=0", Code.OUT_OF_RANGE),
        ("http://gpu?slots=65", Code.OUT_OF_RANGE),
        ("http://gpu?slots=two", Code.OUT_OF_RANGE),
        ("http://gpu?weight=0", Code.OUT_OF_RANGE),
        ("http://gpu?disconnect_cancels=perhaps", Code.OUT_OF_RANGE),
        ("http://gpu?slot=2", Code.UNKNOWN_MEMBER),
        ("http://gpu?slots=", Code.OUT_OF_RANGE),
    ],
)
def test_a_wrong_url_is_refused_with_the_name_of_its_variable(url: str, code: Code) -> None:
    with pytest.raises(RejectedError) as refused:
        from_url(NAME, url, Kind.IMAGE)

    assert (refused.value.code, refused.value.member) == (code, NAME)
    assert refused.value.detail.startswith(f"{NAME}: ")


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        RejectedError, match="slots, models, keeps, weight, api_key, disconnect_cancels, workflow"
    ):
        from_url(NAME, "http://gpu?slot=2", Kind.IMAGE)


@pytest.mark.parametrize("protocol", Protocol)
def test_every_protocol_serves_one_kind_and_can_be_named_in_a_url(protocol: Protocol) -> None:
    kind = KIND_OF[protocol]

    assert from_url(NAME, f"{protocol}+http://gpu", kind).protocol is protocol
    with pytest.raises(RejectedError, match=f"{protocol} does not serve"):
        from_url(NAME, f"{protocol}+http://gpu", next(other for other in Kind if other is not kind))


def test_what_is_configured_beats_what_was_learned() -> None:
    known = backend(learned_protocol=Protocol.SDCPP, learned_models=("b",))

    assert (known.speaks, known.model_names) == (Protocol.SDCPP, ("b",))
    assert backend().speaks is None
    told = backend(protocol=Protocol.OPENAI_IMAGES, models=("a",), learned_models=("b",))
    assert (told.speaks, told.model_names) == (Protocol.OPENAI_IMAGES, ("a",))


def test_a_model_is_found_by_its_slug_in_the_instance_s_spelling() -> None:
    serving = backend(models=("Qwen/Qwen-Image", "sd_xl"))

    assert serving.model_slugs == {"qwen-qwen-image", "sd_xl"}
    assert serving.own_names["qwen-qwen-image"] == "Qwen/Qwen-Image"
    assert "other" not in serving.own_names


def test_an_entry_reads_back_from_the_registry() -> None:
    entry = backend(wanted=Wanted.DRAINING, source=Source.API, models=("a",), slots=3)

    assert decode(encode(entry)) == entry


def test_a_workflow_is_read_by_the_settings_only_and_stands_in_the_entry() -> None:
    known = Workflow(graph={"1": {"class_type": "A", "inputs": {"a": 1}}}, inputs={"prompt": "1.inputs.a"})
    paths: list[str] = []

    def at(path: str) -> Workflow:
        paths.append(path)
        return known

    entry = from_url(NAME, "http://gpu:8188?workflow=/etc/a.json", Kind.IMAGE, at)
    assert (entry.workflow, paths) == (known, ["/etc/a.json"])
    assert decode(encode(entry)) == entry
    assert from_url(NAME, "http://gpu", Kind.IMAGE, at).workflow is None
    with pytest.raises(RejectedError, match="only settings may"):
        from_url(NAME, "http://gpu?workflow=/etc/a.json", Kind.IMAGE)
    with pytest.raises(RejectedError, match="for comfyui, not for sdcpp"):
        from_url(NAME, "sdcpp+http://gpu?workflow=/etc/a.json", Kind.IMAGE, at)
