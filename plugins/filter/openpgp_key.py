"""Pass an OpenPGP public key on, if it is the expected one."""

from __future__ import annotations

DOCUMENTATION = r"""
name: openpgp_key
short_description: Pass an OpenPGP public key on, if it is the expected one
version_added: 0.2.0
author: The torchfleet authors
description:
  - Fails where the text is no ASCII-armoured public key, or holds a key without the expected fingerprint.
options:
  _input:
    description: The armoured key.
    type: str
    required: true
  fingerprint:
    description: Its fingerprint, 40 hexadecimal digits, or the last of them. Empty - any key.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Install the key of a repository
  ansible.builtin.copy:
    content: "{{ answer.content | torchfleet.gpu.openpgp_key(fingerprint) }}"
    dest: /usr/share/keyrings/site.asc
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The key as it was given.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.openpgp import fingerprints


def openpgp_key(text: str, fingerprint: str = "") -> str:
    try:
        found = fingerprints(str(text))
    except (ValueError, IndexError) as error:
        raise AnsibleFilterError(
            f"the key of the repository: {error}. Nothing was installed; give the right one"
        ) from error
    wanted = "".join(str(fingerprint).split()).upper()
    if not found or (wanted and (len(found) != 1 or not found[0].endswith(wanted))):
        raise AnsibleFilterError(
            f"the repository's key has the fingerprint {', '.join(found) or 'none'}, expected {wanted}."
            " Nothing was installed: the mirror lies, or the key was changed. If its owner announced that,"
            " set nvidia_driver_nvidia_key (NVIDIA's) or the fingerprint of your own repository"
        )
    return str(text)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"openpgp_key": openpgp_key}
