"""The simulated ComfyUI over HTTP and websocket: the manners of the real one, the bad ones too."""

import asyncio
import copy
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType
from PIL import Image

from services.gpusim.control import Control
from services.gpusim.main import running
from services.gpusim.model import Fault, Options, Outcome, ProfileName

EXAMPLE = Path(__file__).parents[2] / "deploy" / "comfyui" / "text-to-image.json"
ID = "0199d4e8-7c1a-8000-8000-00000000000a"
OTHER = "0199d4e8-7c1a-8000-8000-00000000000b"

# Any: a graph, changed by a test
Graph = dict[str, Any]


def graph(seed: int = 7, **inputs: object) -> Graph:
    """Give a small graph; ``n3_steps=2`` sets the input ``steps`` of node 3."""
    made: Graph = copy.deepcopy(json.loads(EXAMPLE.read_text())["workflow"])
    made["3"]["inputs"] |= {"seed": seed, "steps": 4}
    made["5"]["inputs"] |= {"width": 128, "height": 64}
    made["6"]["inputs"]["text"] = "a fox"
    for place, value in inputs.items():
        node, _, name = place.removeprefix("n").partition("_")
        made[node]["inputs"][name] = value
    return made


class Comfy:
    """A client that knows the routes."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self.control = Control(session, url)

    # Any: a JSON body of whatever shape the test asks for
    async def call(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.url + path, **body) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text[:1] in ("{", "[") else text

    async def submit(self, made: Graph, prompt_id: str = ID, **members: object) -> None:
        body = {"prompt": made, "prompt_id": prompt_id, **members}
        status, accepted = await self.call("POST", "/prompt", json=body)
        assert status == 200, accepted
        assert accepted["prompt_id"] == prompt_id
        assert accepted["node_errors"] == {}

    # Any: as above
    async def ended(self, prompt_id: str = ID) -> Any:
        async with asyncio.timeout(10):
            while True:
                status, history = await self.call("GET", f"/history/{prompt_id}")
                assert status == 200
                if history:
                    return history[prompt_id]

    async def until_running(self) -> None:
        async with asyncio.timeout(10):
            while not (await self.control.stats()).running:
                pass

    async def outcomes(self) -> list[Outcome]:
        return [job.outcome for job in await self.control.jobs()]


def started(profile: ProfileName, **options: Any) -> Any:  # Any: options of the simulator; a context
    return running(Options(profile=profile, **{"step_ms": 0, **options}))


@pytest.fixture(name="server", params=[ProfileName.COMFYUI, ProfileName.COMFYUI_OLD])
async def _server(request: pytest.FixtureRequest) -> AsyncIterator[Comfy]:
    async with started(request.param) as url, ClientSession() as session:
        yield Comfy(session, url)


def files(entry: Any) -> list[dict[str, str]]:  # Any: as above
    return [image for output in entry["outputs"].values() for image in output["images"]]


async def test_a_prompt_is_drawn_from_what_the_graph_says_of_it(server: Comfy) -> None:
    await server.submit(graph(n7_text="rain"), client_id="me")
    entry = await server.ended()
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    assert [name for name, _ in entry["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    assert entry["prompt"][1] == ID
    (file,) = files(entry)
    assert file["type"] == "output"
    async with server.session.get(f"{server.url}/view", params=file) as answer:
        assert answer.content_type == "image/png"
        with Image.open(io.BytesIO(await answer.read())) as image:
            assert image.size == (128, 64)
    (job,) = await server.control.jobs()
    assert (job.prompt, job.seed, job.outcome) == ("a fox", 7, Outcome.DONE)


async def test_the_history_is_empty_until_the_end_and_for_what_never_was(server: Comfy) -> None:
    await server.control.script(Fault.HANG)
    await server.submit(graph())
    await server.until_running()
    assert await server.call("GET", f"/history/{ID}") == (200, {})
    assert await server.call("GET", "/history/never") == (200, {})
    _, queue = await server.call("GET", "/queue")
    assert [entry[1] for entry in queue["queue_running"]] == [ID]
    assert queue["queue_pending"] == []
    assert await server.call("GET", "/prompt") == (200, {"exec_info": {"queue_remaining": 1}})
    await server.control.clear()
    await server.ended()
    assert await server.call("GET", "/queue") == (200, {"queue_running": [], "queue_pending": []})


async def test_every_route_is_also_under_api(server: Comfy) -> None:
    body = {"prompt": graph(), "prompt_id": ID}
    assert (await server.call("POST", "/api/prompt", json=body))[0] == 200
    await server.ended()
    for path in (f"/api/history/{ID}", "/api/queue", "/api/prompt", "/api/system_stats"):
        status, answer = await server.call("GET", path)
        assert (status, type(answer)) == (200, dict)
    async with server.session.ws_connect(f"{server.url}/api/ws") as socket:
        assert (await socket.receive_json())["type"] == "status"


async def test_the_same_graph_again_gives_the_same_old_file(server: Comfy) -> None:
    await server.submit(graph())
    first = await server.ended()
    await server.submit(graph(), OTHER)
    second = await server.ended(OTHER)
    assert files(first) == files(second)
    assert second["status"]["messages"][1][1]["nodes"] == list(graph())
    third = f"{ID[:-1]}c"
    await server.submit(graph(seed=8), third)
    assert files(await server.ended(third)) != files(first)


async def test_a_batch_gives_as_many_pictures(server: Comfy) -> None:
    await server.submit(graph(n5_batch_size=3))
    assert len(files(await server.ended())) == 3


async def test_a_preview_is_a_temporary_file(server: Comfy) -> None:
    made = graph()
    made["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    await server.submit(made)
    (file,) = files(await server.ended())
    assert file["type"] == "temp"
    async with server.session.get(f"{server.url}/view", params=file) as answer:
        assert answer.status == 200
    async with server.session.get(f"{server.url}/view", params={**file, "type": "output"}) as answer:
        assert answer.status == 404


async def test_a_prefix_with_a_slash_is_a_folder(server: Comfy) -> None:
    await server.submit(graph(n9_filename_prefix="a b/c&d"))
    (file,) = files(await server.ended())
    assert file["subfolder"] == "a b"
    assert file["filename"].startswith("c&d_")
    async with server.session.get(f"{server.url}/view", params=file) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("inputs", "node", "kind"),
    [
        ({"n4_ckpt_name": "absent.safetensors"}, "4", "value_not_in_list"),
        ({"n3_sampler_name": "absent"}, "3", "value_not_in_list"),
        ({"n3_seed": "seven"}, "3", "invalid_input_type"),
        ({"n3_steps": 0}, "3", "value_smaller_than_min"),
        ({"n5_width": 99_999}, "5", "value_bigger_than_max"),
        ({"n8_samples": ["4", 0]}, "8", "return_type_mismatch"),
        ({"n8_samples": "3"}, "8", "bad_linked_input"),
        ({"n8_samples": ["33", 0]}, "8", "bad_linked_input"),
    ],
)
async def test_a_wrong_input_is_refused_with_its_node(
    server: Comfy, inputs: dict[str, object], node: str, kind: str
) -> None:
    status, refused = await server.call("POST", "/prompt", json={"prompt": graph(**inputs)})  # type: ignore[arg-type]  # no seed among them
    assert status == 400
    assert refused["error"]["type"] == "prompt_outputs_failed_validation"
    assert list(refused["node_errors"]) == [node]
    (error,) = refused["node_errors"][node]["errors"]
    assert error["type"] == kind
    assert error["extra_info"]["input_name"] == next(iter(inputs)).partition("_")[2]
    assert (await server.control.stats()).jobs.received == 0


async def test_what_is_no_graph_is_refused(server: Comfy) -> None:
    unknown = graph()
    unknown["4"]["class_type"] = "UnetLoaderGGUF"
    endless = graph(n3_latent_image=["3", 0])
    unsampled = graph(n8_samples=["5", 0])
    incomplete = graph()
    del incomplete["6"]["inputs"]["text"]
    silent = graph()
    del silent["9"]
    for body, kind in (
        ({}, "no_prompt"),
        ({"prompt": unknown}, "invalid_prompt"),
        ({"prompt": {"1": {"inputs": {}}}}, "invalid_prompt"),
        ({"prompt": []}, "invalid_prompt"),
        ({"prompt": endless}, "invalid_prompt"),
        ({"prompt": unsampled}, "invalid_prompt"),
        ({"prompt": silent}, "prompt_no_outputs"),
        ({"prompt": incomplete}, "prompt_outputs_failed_validation"),
    ):
        status, refused = await server.call("POST", "/prompt", json=body)
        assert (status, refused["error"]["type"]) == (400, kind)
    assert (await server.call("POST", "/prompt", data=b"{"))[0] == 500


async def test_only_a_new_server_wants_a_canonical_id() -> None:
    for profile, expected in ((ProfileName.COMFYUI, 400), (ProfileName.COMFYUI_OLD, 200)):
        async with started(profile) as url, ClientSession() as session:
            for odd in ("mine", ID.upper(), 7 if expected == 400 else "x"):
                body = {"prompt": graph(), "prompt_id": odd}
                assert (await Comfy(session, url).call("POST", "/prompt", json=body))[0] == expected


async def test_an_id_is_made_where_none_is_given(server: Comfy) -> None:
    _, accepted = await server.call("POST", "/prompt", json={"prompt": graph()})
    assert (await server.ended(accepted["prompt_id"]))["status"]["completed"]


async def test_what_waits_is_deleted_without_a_trace(server: Comfy) -> None:
    await server.control.script(Fault.HANG)
    await server.submit(graph())
    await server.until_running()
    await server.submit(graph(seed=8), OTHER)
    assert (await server.call("POST", "/queue", json={"delete": [OTHER, ID]}))[0] == 200
    _, queue = await server.call("GET", "/queue")
    assert ([entry[1] for entry in queue["queue_running"]], queue["queue_pending"]) == ([ID], [])
    assert await server.call("GET", f"/history/{OTHER}") == (200, {})
    await server.submit(graph(seed=9), OTHER)
    await server.call("POST", "/queue", json={"clear": True})
    await server.control.clear()
    await server.ended()
    assert await server.outcomes() == [Outcome.DONE, Outcome.CANCELLED, Outcome.CANCELLED]


@pytest.mark.parametrize(
    ("profile", "prompt_id", "strikes"),
    [
        (ProfileName.COMFYUI, ID, True),
        (ProfileName.COMFYUI, OTHER, False),
        (ProfileName.COMFYUI, None, True),
        (ProfileName.COMFYUI_OLD, ID, True),
        (ProfileName.COMFYUI_OLD, OTHER, True),
    ],
)
async def test_an_interruption_strikes_what_it_names_and_at_an_old_server_whatever_runs(
    profile: ProfileName,
    prompt_id: str | None,
    strikes: bool,  # noqa: FBT001 - from the table
) -> None:
    async with started(profile, step_ms=500, sigma=0) as url, ClientSession() as session:
        server = Comfy(session, url)
        await server.submit(graph())
        await server.until_running()
        body = {} if prompt_id is None else {"prompt_id": prompt_id}
        assert (await server.call("POST", "/interrupt", json=body))[0] == 200
        entry = await server.ended()
        events = [name for name, _ in entry["status"]["messages"]]
        assert ("execution_interrupted" in events) is strikes
        assert entry["status"]["status_str"] == ("error" if strikes else "success")
        assert await server.outcomes() == [Outcome.INTERRUPTED if strikes else Outcome.DONE]


async def test_an_interruption_of_nothing_does_not_harm_the_next_prompt(server: Comfy) -> None:
    await server.call("POST", "/interrupt", json={})
    await server.submit(graph())
    assert (await server.ended())["status"]["completed"]


async def test_a_new_server_cancels_by_id_whatever_becomes_of_it() -> None:
    async with started(ProfileName.COMFYUI) as url, ClientSession() as session:
        server = Comfy(session, url)
        await server.control.script(Fault.HANG)
        await server.submit(graph())
        await server.until_running()
        await server.submit(graph(seed=8), OTHER)
        for prompt_id, expected in ((OTHER, True), (OTHER, False), (ID, True), ("never", False)):
            answer = await server.call("POST", f"/api/jobs/{prompt_id}/cancel", json={})
            assert answer == (200, {"cancelled": expected})
        await server.control.clear()
        assert not (await server.ended())["status"]["completed"]
        assert await server.outcomes() == [Outcome.INTERRUPTED, Outcome.CANCELLED]


async def test_an_old_server_knows_no_jobs() -> None:
    async with started(ProfileName.COMFYUI_OLD) as url, ClientSession() as session:
        status, text = await Comfy(session, url).call("POST", f"/api/jobs/{ID}/cancel", json={})
        assert (status, text) == (404, "404: Not Found")


async def test_the_client_of_a_prompt_hears_of_it_and_others_only_of_the_queue(server: Comfy) -> None:
    async with (
        server.session.ws_connect(f"{server.url}/ws?clientId=me") as mine,
        server.session.ws_connect(f"{server.url}/ws?clientId=you") as yours,
    ):
        await server.submit(graph(), client_id="me")
        heard = []
        previews = 0
        async for message in mine:
            if message.type is WSMsgType.BINARY:
                previews += 1
                continue
            heard.append(json.loads(message.data))
            if heard[-1]["type"] == "executing" and heard[-1]["data"]["node"] is None:
                break
        assert previews == 4
        steps = [said["data"]["value"] for said in heard if said["type"] == "progress"]
        assert steps == [1, 2, 3, 4]
        apart = ("progress", "progress_state", "status")
        order = [said["type"] for said in heard if said["type"] not in apart]
        assert order == [
            "execution_start",
            "execution_cached",
            "executing",
            "executed",
            "execution_success",
            "executing",
        ]
        await server.control.script(Fault.HTTP500)
        await server.submit(graph(seed=8), OTHER, client_id="me")
        others = [await yours.receive_json()]
        while others[-1]["type"] == "status":
            others.append(await yours.receive_json())
        # A failure is the first that is told to them, too.
        assert (others[-1]["type"], others[-1]["data"]["prompt_id"]) == ("execution_error", OTHER)


HELLO = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


@pytest.mark.parametrize(
    ("profile", "said", "kind"),
    [
        (ProfileName.COMFYUI, HELLO, 4),
        (ProfileName.COMFYUI, {"type": "feature_flags", "data": {}}, 1),
        (ProfileName.COMFYUI, None, 1),
        (ProfileName.COMFYUI_OLD, HELLO, 1),
    ],
)
async def test_a_preview_says_whose_it_is_to_a_client_that_can_read_that(
    profile: ProfileName, said: object, kind: int
) -> None:
    async with (
        started(profile) as url,
        ClientSession() as session,
        session.ws_connect(f"{url}/ws?clientId=me") as mine,
    ):
        if said is not None:
            await mine.send_json(said)
        if said is not None and profile is ProfileName.COMFYUI:
            while (await mine.receive_json())["type"] != "feature_flags":
                pass
        await Comfy(session, url).submit(graph(), client_id="me")
        while (message := await mine.receive()).type is not WSMsgType.BINARY:
            pass
    event, second = (int.from_bytes(message.data[at : at + 4]) for at in (0, 4))
    assert event == kind
    if kind == 1:
        image = message.data[8:]
        assert second == 1, "a JPEG"
    else:
        image = message.data[8 + second :]
        assert json.loads(message.data[8 : 8 + second])["prompt_id"] == ID
    assert Image.open(io.BytesIO(image)).format == "JPEG"


async def test_a_failure_is_told_to_all_and_kept(server: Comfy) -> None:
    await server.control.script(Fault.OOM)
    async with server.session.ws_connect(f"{server.url}/ws?clientId=you") as yours:
        await server.submit(graph(), client_id="me")
        while (said := await yours.receive_json())["type"] == "status":
            pass
    assert said["type"] == "execution_error"
    assert said["data"]["exception_type"] == "torch.OutOfMemoryError"
    entry = await server.ended()
    assert entry["status"]["messages"][-1] == ["execution_error", said["data"]]
    assert entry["outputs"] == {}


async def test_statistics_and_the_description_of_a_node(server: Comfy) -> None:
    _, stats = await server.call("GET", "/system_stats")
    assert stats["system"]["comfyui_version"]
    assert stats["devices"][0]["type"] == "cuda"
    _, described = await server.call("GET", "/object_info/CheckpointLoaderSimple")
    required = described["CheckpointLoaderSimple"]["input"]["required"]
    assert required["ckpt_name"] == [["sd_xl_base_1.0.safetensors"]]
    _, sampler = await server.call("GET", "/object_info/KSampler")
    assert set(sampler["KSampler"]["input"]["required"]) == set(graph()["3"]["inputs"])
    assert await server.call("GET", "/object_info/Absent") == (200, {})


async def test_a_checkpoint_is_loaded_when_a_graph_asks_for_it() -> None:
    options = {"models": ("a.safetensors", "b.safetensors"), "load_s": 0.01}
    async with started(ProfileName.COMFYUI, **options) as url, ClientSession() as session:
        server = Comfy(session, url)
        for number, name in enumerate(("a.safetensors", "b.safetensors", "b.safetensors")):
            await server.submit(graph(seed=number, n4_ckpt_name=name), f"{ID[:-1]}{number}")
            await server.ended(f"{ID[:-1]}{number}")
        stats = await server.control.stats()
    assert (stats.loads, stats.loaded) == (1, ("b.safetensors",))


async def test_a_restart_forgets_everything() -> None:
    async with started(ProfileName.COMFYUI) as url, ClientSession() as session:
        server = Comfy(session, url)
        await server.submit(graph())
        (file,) = files(await server.ended())
        port = int(url.rpartition(":")[2])
    async with started(ProfileName.COMFYUI, port=port) as url, ClientSession() as session:
        server = Comfy(session, url)
        assert await server.call("GET", f"/history/{ID}") == (200, {})
        assert (await server.call("GET", f"/view?filename={file['filename']}"))[0] == 404
        assert (await server.call("GET", "/view"))[0] == 404
