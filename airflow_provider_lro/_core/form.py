"""The fields of the connection form, described once for both of Airflow's ways to ask. Imports nothing heavy."""

from __future__ import annotations

from typing import Any, NamedTuple


class Field(NamedTuple):
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
    Field("key_path", "Key path", "Path of a service-account key file, on every worker and triggerer."),
    Field("keyfile_dict", "Key JSON", "A service-account key, whole.", secret=True),
    Field(
        "credential_config_file",
        "Credential configuration",
        "Path or JSON of a credential configuration (workload identity federation).",
    ),
    Field(
        "impersonation_chain", "Impersonation chain", "Service account to impersonate, or several separated by commas."
    ),
    Field("quota_project_id", "Quota project", "The project that quota and bills go to."),
    Field("scope", "Scopes", "OAuth scopes, separated by commas. Default: cloud-platform."),
    Field("is_anonymous", "Anonymous", "Send no credentials.", kind="boolean"),
    Field("insecure", "Plaintext", "No TLS; sends no credentials.", kind="boolean"),
    Field(
        "root_certificates",
        "Root certificates",
        "PEM text or a path: the authorities to trust instead of the system's.",
        lines=True,
    ),
    Field("client_certificate", "Client certificate", "PEM text or a path, for mutual TLS.", lines=True),
    # PEM text works too, but not through the form: a password's box drops the line breaks.
    Field(
        "client_key", "Client key", "Path of its PEM file, on every worker and triggerer, for mutual TLS.", secret=True
    ),
    Field(
        "allowed_endpoints",
        "Allowed endpoints",
        "Hosts that tasks may have the credentials sent to, separated by commas; * stands for labels. Default:"
        " *.googleapis.com. The connection's own is always allowed.",
    ),
    Field("universe_domain", "Universe domain", "Takes the place of googleapis.com in the endpoint."),
    Field("authority", "Authority", "The name to expect in the server's certificate."),
    Field("headers", "More headers", "Of every call: a JSON object of texts.", secret=True),
    Field("max_message_mb", "Largest response (MiB)", "1 to 2047. Default: 64.", kind="integer", least=1, most=2047),
    Field(
        "max_triggerer_message_mb",
        "Largest response in the triggerer (MiB)",
        "1 to 2047. Default: 1. A worker reads a larger one.",
        kind="integer",
        least=1,
        most=2047,
    ),
    Field(
        "max_polls_per_second",
        "Polls per second",
        "At most so many by all deferred waits of a triggerer together. Default: no limit.",
    ),
    Field(
        "max_triggerer_pages",
        "Pages of a listing",
        "At most so many in a triggerer. Default: 1000.",
        kind="integer",
        least=1,
    ),
    Field(
        "link_template",
        "Link template",
        "URL of an operation, with {project}, {location}, {id}, {name} or any other part of its name.",
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
    """Return the form's changes to Airflow's own fields; the same for all versions."""
    return {
        "hidden_fields": ["schema", "login", "extra"],
        "relabeling": {"host": "Endpoint", "password": "Bearer token"},
        "placeholders": {"host": "us-central1-aiplatform.googleapis.com", "port": "443"},
    }
