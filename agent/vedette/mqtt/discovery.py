"""Home Assistant's MQTT discovery: what this agent is -> one message for the whole device.

Format: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload, long names, no abbreviations. Each
component reads a topic that others read too (``state``, ``stats``, ``settings``, ``status``, ``health``) through a template,
and each control writes one of our commands; nothing is published for Home Assistant alone but this message.

Templates take a message as it is at any moment: before the first state, and with nulls in it. Names stand in them as JSON
strings, which Jinja reads alike, and are subscripts, never attributes: a label may be called ``items``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from .topics import Topics

Component: TypeAlias = dict[str, Any]
Shows: TypeAlias = Literal["counts", "class", "anomaly", "values"]
"""What a pipeline's state message holds."""

COMMAND_LIFE_S: Final = 30  # of a command from Home Assistant; its clock and the device's may differ by less
MAX_CHOICES: Final = 64  # classes of a sensor that are listed; more make the message long and the list useless
MISSED: Final = 3  # intervals without a message after which a value is unavailable


@dataclass(frozen=True, slots=True)
class PipelineFacts:
    """A pipeline as Home Assistant shows it.

    ``shows``: what its state message holds, none where it publishes no state. ``labels``: with ``counts`` those counted one
    by one, none for their total alone; with ``class`` all there are. ``zones``: by name. ``values``: name and unit of each.
    ``thresholds``: labels with one of their own; ``max_threshold``: 0 where it has no threshold that can be set.
    """

    name: str
    shows: Shows | None = None
    labels: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    thresholds: tuple[str, ...] = ()
    max_threshold: float = 1.0
    snapshots: bool = False


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """An agent as Home Assistant shows it. ``stats_s``, ``health_s``: intervals of these messages.

    ``expire_after_s``: after so long without a new one, what comes in intervals is unavailable; 0: `MISSED` intervals.
    """

    version: str
    pipelines: tuple[PipelineFacts, ...]
    stats_s: float = 10.0
    health_s: float = 30.0
    expire_after_s: int = 0


def discovery_topic(prefix: str, topics: Topics) -> str:
    """Where the message goes, retained."""
    return f"{prefix}/device/{topics.device}/config"


def discovery(facts: DeviceFacts, topics: Topics, retired: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The message. ``retired``: platform by id of components that are no more: nothing but their platform stands for
    them, which is how Home Assistant is told to remove them."""
    components = dict(_device_components(facts, topics))
    for pipeline in facts.pipelines:
        components.update(_pipeline_components(pipeline, facts, topics))
    gone = {name: {"platform": platform} for name, platform in (retired or {}).items() if name not in components}
    return {
        "device": {
            "identifiers": [f"vedette-{topics.device}"],
            "name": topics.device,
            "manufacturer": "vedette",
            "model": "edge inference agent",
            "sw_version": facts.version,
        },
        "origin": {"name": "vedette", "sw_version": facts.version},
        "availability": [_alive(topics)],
        "qos": 1,
        # what is gone comes first, for Home Assistant leaves a message off at a component that it is still busy with
        "components": {**gone, **{name: _identified(name, one, topics) for name, one in components.items()}},
    }


def platforms(message: Mapping[str, Any]) -> dict[str, str]:
    """Platform by id of the components that a message announces; of those it removes, none."""
    return {name: one["platform"] for name, one in message["components"].items() if len(one) > 1}


def component_id(*parts: str) -> str:
    """Letters, digits, ``-`` and ``_``; two names never become one, for what is changed gets a hash of what it was."""
    return "_".join(_plain(part) for part in parts)


def _plain(part: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", part)
    return plain if plain == part else f"{plain}-{hashlib.blake2b(part.encode(), digest_size=4).hexdigest()}"


def _identified(name: str, component: Component, topics: Topics) -> Component:
    return {**component, "unique_id": f"vedette-{topics.device}-{name}"}


def _alive(topics: Topics) -> Component:
    living = json.dumps(["init", "ready", "alert"])
    return {
        "topic": topics.status,
        "value_template": f"{{{{ 'online' if value_json.state in {living} else 'offline' }}}}",
    }


def _device_components(facts: DeviceFacts, topics: Topics) -> Iterator[tuple[str, Component]]:
    yield (
        "problem",
        {
            "platform": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": topics.status,
            "value_template": "{{ 'ON' if value_json.state == 'alert' else 'OFF' }}",
            "json_attributes_topic": topics.status,
            "json_attributes_template": "{{ {'why': value_json.why, 'since': value_json.since} | tojson }}",
        },
    )
    yield (
        "temperature",
        {
            "platform": "sensor",
            "name": "Temperature",
            "device_class": "temperature",
            "state_class": "measurement",
            "unit_of_measurement": "°C",
            "entity_category": "diagnostic",
            "state_topic": topics.health,
            "value_template": "{{ value_json.temperature_c }}",
            "expire_after": facts.expire_after_s or _expiry(facts.health_s),
        },
    )


def _pipeline_components(
    pipeline: PipelineFacts, facts: DeviceFacts, topics: Topics
) -> Iterator[tuple[str, Component]]:
    name = pipeline.name
    settings = topics.pipeline(name, "settings")
    yield (
        component_id(name, "enabled"),
        {
            "platform": "switch",
            "name": name,
            "state_topic": settings,
            "value_template": "{{ 'ON' if value_json.enabled else 'OFF' }}",
            "command_topic": topics.command("enable"),
            "command_template": _command_template(name, "\"on\":{{ 'true' if value == 'ON' else 'false' }}"),
        },
    )
    yield (
        component_id(name, "fps"),
        {
            "platform": "sensor",
            "name": f"{name} rate",
            "state_class": "measurement",
            "unit_of_measurement": "fps",
            "entity_category": "diagnostic",
            "state_topic": topics.pipeline(name, "stats"),
            "value_template": "{{ value_json.fps_out }}",
            "expire_after": facts.expire_after_s or _expiry(facts.stats_s),
        },
    )
    if pipeline.max_threshold:
        shown, told = "{{ value_json.threshold }}", '"value":{{ value }}'
        yield component_id(name, "threshold"), _number(f"{name} threshold", shown, told, pipeline, topics)
        for label in pipeline.thresholds:
            shown = f"{{{{ value_json.thresholds[{_quoted(label)}] }}}}"
            own = f'{told},"label":{_in_json(label)}'
            yield (
                component_id(name, "threshold", label),
                _number(f"{name} threshold {label}", shown, own, pipeline, topics),
            )
    if pipeline.snapshots:
        yield (
            component_id(name, "snapshot"),
            {
                "platform": "image",
                "name": f"{name} snapshot",
                "image_topic": topics.pipeline(name, "snapshot"),
                "content_type": "image/jpeg",
            },
        )
        yield (
            component_id(name, "take-snapshot"),
            {
                "platform": "button",
                "name": f"{name} take a snapshot",
                "command_topic": topics.command("snapshot"),
                "command_template": _command_template(name),
            },
        )
    for component, one in _state_components(pipeline):
        yield component_id(name, *component), {
            **one,
            "state_topic": topics.pipeline(name, "state"),
            # a pipeline that is off knows nothing of now
            "availability": [_alive(topics), {
                "topic": settings, "value_template": "{{ 'online' if value_json.enabled else 'offline' }}",
            }],
            "availability_mode": "all",
        }  # fmt: skip


def _state_components(pipeline: PipelineFacts) -> Iterator[tuple[tuple[str, ...], Component]]:
    """Of what holds now. Ids without the pipeline's name, components without topic and availability."""
    name = pipeline.name
    if pipeline.shows == "counts":
        counts = "(value_json['counts'] | default({}, true))"
        total = f"({counts}.values() | list | sum)"
        if pipeline.labels:
            for label in pipeline.labels:
                yield ("count", label), _count(f"{name} {label}", f"{counts}.get({_quoted(label)}, 0)")
        else:
            yield ("count",), _count(f"{name} count", total)
        yield ("occupancy",), _occupancy(f"{name} occupancy", total)
        for zone in pipeline.zones:
            inside = f"(value_json['zones'] | default({{}}, true)).get({_quoted(zone)}, {{}})"
            inside = f"({inside}.values() | list | sum)"
            yield ("zone", zone, "count"), _count(f"{name} {zone} count", inside)
            yield ("zone", zone, "occupancy"), _occupancy(f"{name} {zone} occupancy", inside)
    elif pipeline.shows == "class":
        choices = {"device_class": "enum", "options": list(pipeline.labels)}
        yield (
            ("class",),
            {
                "platform": "sensor",
                "name": f"{name} class",
                "value_template": "{{ (value_json['class'] | default({}, true)).get('label') }}",
                **(choices if 0 < len(pipeline.labels) <= MAX_CHOICES else {}),
            },
        )
    elif pipeline.shows == "anomaly":
        anomaly = "(value_json['anomaly'] | default({}, true))"
        yield (
            ("anomaly",),
            {
                "platform": "binary_sensor",
                "name": f"{name} anomaly",
                "device_class": "problem",
                "value_template": f"{{{{ 'ON' if {anomaly}.get('active') else 'OFF' }}}}",
            },
        )
        yield (
            ("anomaly", "score"),
            {
                "platform": "sensor",
                "name": f"{name} anomaly score",
                "state_class": "measurement",
                "value_template": f"{{{{ {anomaly}.get('score') }}}}",
            },
        )
    elif pipeline.shows == "values":
        for value, unit in pipeline.values:
            yield (
                ("value", value),
                {
                    "platform": "sensor",
                    "name": f"{name} {value}",
                    "state_class": "measurement",
                    "value_template": f"{{{{ (value_json['values'] | default({{}}, true)).get({_quoted(value)}) }}}}",
                    **({"unit_of_measurement": unit} if unit else {}),
                },
            )


def _number(name: str, shown: str, told: str, pipeline: PipelineFacts, topics: Topics) -> Component:
    """A threshold. ``shown``: the template of its value; ``told``: the command's fields beside the pipeline."""
    return {
        "platform": "number",
        "name": name,
        "entity_category": "config",
        "mode": "box",
        "min": 0,
        "max": pipeline.max_threshold,
        "step": 0.01,
        "state_topic": topics.pipeline(pipeline.name, "settings"),
        "value_template": shown,
        "command_topic": topics.command("threshold"),
        "command_template": _command_template(pipeline.name, told),
    }


def _count(name: str, template: str) -> Component:
    return {
        "platform": "sensor",
        "name": name,
        "state_class": "measurement",
        "value_template": f"{{{{ {template} }}}}",
    }


def _occupancy(name: str, template: str) -> Component:
    return {
        "platform": "binary_sensor",
        "name": name,
        "device_class": "occupancy",
        "value_template": f"{{{{ 'ON' if {template} else 'OFF' }}}}",
    }


def _command_template(pipeline: str, fields: str = "") -> str:
    """One of our commands, with an id of its own and an expiry by Home Assistant's clock."""
    # its sandbox lets no range be longer than 100000
    unique = "ha-{{ (now().timestamp() * 1000) | int }}-{{ range(100000) | random }}"
    expires = f"{{{{ (now().timestamp() + {COMMAND_LIFE_S}) | round(3) }}}}"
    return (
        f'{{"id":"{unique}","expires":{expires},"pipeline":{json.dumps(pipeline)}'
        + (f",{fields}" if fields else "")
        + "}"
    )


def _in_json(text: str) -> str:
    """A JSON string that a template writes: braces in it are none of Jinja's."""
    return f"{{{{ {_quoted(text)} | tojson }}}}"


def _quoted(text: str) -> str:
    """A string in a template. Jinja reads JSON's escapes, but not its surrogate pairs."""
    return json.dumps(text, ensure_ascii=False)


def _expiry(interval_s: float) -> int:
    return max(1, round(interval_s * MISSED))
