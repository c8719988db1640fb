"""What the Google provider's own form stores, as test_google_connection.py sees it do. Standard library only."""

from __future__ import annotations

from typing import Any

HOOK_NAME = "Google Cloud"
GOOGLE_FORM: dict[str, Any] = {
    **dict.fromkeys(
        (
            "project",
            "key_path",
            "keyfile_dict",
            "credential_config_file",
            "scope",
            "key_secret_name",
            "key_secret_project_id",
            "impersonation_chain",
            "idp_issuer_url",
            "client_id",
            "client_secret",
            "idp_extra_parameters",
            "quota_project_id",
        )
    ),
    "num_retries": 5,
    "is_anonymous": False,
}
"""Its extra when nothing is filled in."""
