"""Home Assistant's own core and MQTT integration, told over stdin what to do. Runs in an environment of its own.

Real: the core, its registries, the MQTT integration with discovery, schemas, entities and templates, paho-mqtt, the broker.
Stood in for: packages of parts that MQTT does not use but that are imported on the way (`ABSENT`), and the web server and
file upload, which its manifest asks for and which only its settings dialogue needs.

One JSON object a line in, one out: {"do": "states"}, {"do": "call", "domain", "service", "data"}, {"do": "complaints"},
{"do": "registry"}, {"do": "stop"}.
"""

import asyncio
import importlib.abc
import importlib.machinery
import json
import logging
import sys
import types

ABSENT = {"hass_nabucasa", "habluetooth", "aiogithubapi", "securetar"}  # cloud, Bluetooth, front-end previews, backups


class _Absent(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        kind = type(name, (Exception,), {})
        setattr(self, name, kind)
        return kind


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ABSENT:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return _Absent(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, _Finder())

from homeassistant import config_entries, core, loader  # noqa: E402
from homeassistant.helpers import (  # noqa: E402
    area_registry,
    category_registry,
    device_registry,
    entity,
    entity_registry,
    floor_registry,
    frame,
    issue_registry,
    label_registry,
    restore_state,
    template,
    translation,
)
from homeassistant.helpers.storage import get_internal_store_manager  # noqa: E402
from homeassistant.setup import async_setup_component  # noqa: E402


class Complaints(logging.Handler):
    """Warnings and worse."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")
        if record.exc_info:
            self.lines.append(logging.Formatter().formatException(record.exc_info))


async def start(folder, port):
    hass = core.HomeAssistant(folder)
    loader.async_setup(hass)
    hass.config.skip_pip = True
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    for module in (entity, frame, template, translation, device_registry):
        module.async_setup(hass)
    await get_internal_store_manager(hass).async_initialize()
    registries = (
        area_registry, category_registry, device_registry, entity_registry, floor_registry, issue_registry,
        label_registry, restore_state,
    )  # fmt: skip
    await asyncio.gather(
        *(registry.async_load(hass, load_empty=True) for registry in registries), hass.config_entries.async_initialize()
    )
    for domain in ("http", "file_upload"):
        hass.config.components.add(domain)
    hass.http = types.SimpleNamespace(register_view=lambda view: None)
    hass.set_state(core.CoreState.running)
    await async_setup_component(hass, "mqtt", {})
    entry = config_entries.ConfigEntry(
        data={"broker": "127.0.0.1", "port": port, "protocol": "5", "discovery": True},
        discovery_keys=types.MappingProxyType({}), domain="mqtt", minor_version=1, options={}, source="user",
        subentries_data=None, title="test", unique_id=None, version=2,
    )  # fmt: skip
    await hass.config_entries.async_add(entry)
    return hass


def states(hass):
    return {
        state.entity_id: {"state": state.state, **json.loads(json.dumps(dict(state.attributes), default=str))}
        for state in hass.states.async_all()
    }


def registry(hass):
    return {entry.unique_id: entry.entity_id for entry in entity_registry.async_get(hass).entities.values()}


async def main(folder, port):
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    hass = await start(folder, port)
    answer = {"ready": True}
    while True:
        print(json.dumps(answer), flush=True)
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        told = json.loads(line or '{"do": "stop"}')
        if told["do"] == "stop":
            break
        if told["do"] == "call":
            try:
                await hass.services.async_call(told["domain"], told["service"], told["data"], blocking=True)
                answer = {"ok": True}
            except Exception as error:  # noqa: BLE001 the test says what was wrong
                answer = {"ok": False, "error": repr(error)}
        else:
            answer = {"states": states, "registry": registry, "complaints": lambda _: complaints.lines}[told["do"]](
                hass
            )
    await hass.async_stop(force=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
