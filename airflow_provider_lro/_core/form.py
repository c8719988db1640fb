"""The fields of the connection form, described once for both of Airflow's ways to ask. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FIELDS", "conn_fields", "field_behaviour", "widgets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One extra of the connection.

    ``kind`` is its JSON type; a ``secret`` is shown as a password, and what has ``lines`` in a box that keeps them.
    """

    name: str
    label: str
    description: str
    kind: str = "string"
    secret: bool = False
    lines: bool = False
    least: int | None = None
    most: int | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of its value, with the formats that Airflow's forms know."""
        limits = {"minimum": self.least, "maximum": self.most}
        shown = "password" if self.secret else "multiline" if self.lines else None
        rest = {"format": shown, **limits}
        return {"type": [self.kind, "null"], **{key: value for key, value in rest.items() if value is not None}}


FIELDS = (
    Field(
        name="key_path",
        label="Key path",
        description="Path of a service-account key file, on every worker and triggerer.",
    ),
    Field(name="keyfile_dict", label="Key JSON", description="A service-account key, whole.", secret=True),
    Field(
        name="credential_config_file",
        label="Credential configuration",
        description="Path or JSON of a credential configuration (workload identity federation).",
    ),
    Field(
        name="impersonation_chain",
        label="Impersonation chain",
        description="Service account to impersonate, or several separated by commas.",
    ),
    Field(name="quota_project_id", label="Quota project", description="The project that quota and bills go to."),
    Field(name="scope", label="Scopes", description="OAuth scopes, separated by commas. Default: cloud-platform."),
    Field(name="is_anonymous", label="Anonymous", description="Send no credentials.", kind="boolean"),
    Field(name="insecure", label="Plaintext", description="No TLS; sends no credentials.", kind="boolean"),
    Field(
        name="root_certificates",
        label="Root certificates",
        description="PEM text or a path: the authorities to trust instead of the system's.",
        lines=True,
    ),
    Field(
        name="client_certificate",
        label="Client certificate",
        description="PEM text or a path, for mutual TLS.",
        lines=True,
    ),
    # PEM text works too, but not through the form: a password's box drops the line breaks.
    Field(
        name="client_key",
        label="Client key",
        description="Path of its PEM file, on every worker and triggerer, for mutual TLS.",
        secret=True,
    ),
    Field(
        name="universe_domain",
        label="Universe domain",
        description="Takes the place of googleapis.com in the endpoint.",
    ),
    Field(name="authority", label="Authority", description="The name to expect in the server's certificate."),
    Field(
        name="max_message_mb",
        label="Largest response (MiB)",
        description="1 to 2047. Default: 64.",
        kind="integer",
        least=1,
        most=2047,
    ),
    Field(
        name="max_polls_per_second",
        label="Polls per second",
        description="At most so many by all deferred waits of a triggerer together. Default: no limit.",
    ),
    Field(
        name="link_template",
        label="Link template",
        description="URL of an operation, with {project}, {location}, {id}, {name} or any other part of its name.",
    ),
)


def conn_fields() -> dict[str, Any]:
    """Return ``conn-fields`` of the provider metadata (Airflow 3.2 and newer)."""
    return {
        field.name: {"label": field.label, "description": field.description, "schema": field.schema} for field in FIELDS
    }


def widgets() -> dict[str, Any]:  # pragma: no cover  (the newest Airflow has none of its imports)
    """Return the form widgets of Airflow below 3.2."""
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextAreaFieldWidget, BS3TextFieldWidget
    from flask_babel import lazy_gettext
    from wtforms import BooleanField, IntegerField, PasswordField, StringField
    from wtforms.validators import Optional

    made: dict[str, Any] = {}
    for field in FIELDS:
        label = lazy_gettext(field.label)
        if field.kind == "boolean":
            made[field.name] = BooleanField(label, description=field.description, default=False)
        elif field.kind == "integer":
            made[field.name] = IntegerField(
                label, description=field.description, validators=[Optional()], widget=BS3TextFieldWidget()
            )
        elif field.secret:
            made[field.name] = PasswordField(label, description=field.description, widget=BS3PasswordFieldWidget())
        else:
            widget = BS3TextAreaFieldWidget() if field.lines else BS3TextFieldWidget()
            made[field.name] = StringField(label, description=field.description, widget=widget)
    return made


def field_behaviour() -> dict[str, Any]:
    """Return what the form makes of Airflow's own fields; the same for all versions."""
    return {
        "hidden_fields": ["schema", "login", "extra"],
        "relabeling": {"host": "Endpoint", "password": "Bearer token"},
        "placeholders": {"host": "us-central1-aiplatform.googleapis.com", "port": "443"},
    }
