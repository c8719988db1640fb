"""Messages made with proto-plus, as Google's own clients have them: fields that real metadata has, and a response."""

from __future__ import annotations

import proto

__protobuf__ = proto.module(
    package="lro_tests.plus",
    manifest={"State", "Counts", "Progress", "Common", "Request", "ShareMetadata", "Metadata", "Lake", "Pond"},
)


class State(proto.Enum):
    """A state."""

    STATE_UNSPECIFIED = 0
    RUNNING = 1


class Counts(proto.Message):
    """How Datastore counts."""

    work_completed = proto.Field(proto.INT64, number=1)
    work_estimated = proto.Field(proto.INT64, number=2)


class Progress(proto.Message):
    """How Spanner says it."""

    progress_percent = proto.Field(proto.INT32, number=1)


class Common(proto.Message):
    """How Document AI and Datastore nest it."""

    state = proto.Field(State, number=1)
    state_message = proto.Field(proto.STRING, number=2)
    progress = proto.Field(Progress, number=3)


class Request(proto.Message):
    """What was asked for, which tells nothing of how it goes."""

    state = proto.Field(State, number=1)
    progress_percent = proto.Field(proto.INT32, number=2)


class ShareMetadata(proto.Message):
    """A progress that is a float."""

    progress = proto.Field(proto.DOUBLE, number=1)


class Metadata(proto.Message):
    """All that metadata has somewhere, in one."""

    create_time = proto.Field(proto.STRING, number=1)
    verb = proto.Field(proto.STRING, number=2)
    target = proto.Field(proto.STRING, number=3)
    status_message = proto.Field(proto.STRING, number=4)
    requested_cancellation = proto.Field(proto.BOOL, number=5)
    state = proto.Field(State, number=6)
    percent_complete = proto.Field(proto.INT32, number=7)
    progress_percentage = proto.Field(proto.DOUBLE, number=8)
    generic_metadata = proto.Field(Common, number=9)
    statements_progress = proto.RepeatedField(Progress, number=10)
    progress_entities = proto.Field(Counts, number=11)
    request = proto.Field(Request, number=12)
    sure_percent = proto.Field(proto.INT32, number=13)
    progress = proto.Field(proto.INT32, number=14)
    progress_percent = proto.Field(proto.INT32, number=15, optional=True)
    labels = proto.MapField(proto.STRING, proto.STRING, number=16)
    status_detail = proto.Field(proto.STRING, number=17)


class Lake(proto.Message):
    """A response."""

    name = proto.Field(proto.STRING, number=1)
    state = proto.Field(State, number=2)


class Pond(proto.Message):
    """Another one."""

    name = proto.Field(proto.STRING, number=1)
