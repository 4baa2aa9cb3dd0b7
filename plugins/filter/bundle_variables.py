"""Say what a bundle means for the variables of the roles."""

from __future__ import annotations

DOCUMENTATION = r"""
name: bundle_variables
short_description: Say what a bundle means for the variables of the roles
version_added: 0.2.0
author: The torchfleet authors
description:
  - The mirrors, sources of PyTorch and the driver's repository that a bundle in a directory of the host
    stands for.


positional: directory, truth
options:
  _input:
    description: The manifest of the bundle.
    type: dict
    required: true
  directory:
    description: Where the bundle is on the host.
    type: path
    required: true
  truth:
    description: What the host is.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Which sources has PyTorch?
  ansible.builtin.debug:
    msg: "{{ manifest | torchfleet.gpu.bundle_variables('/media/usb/bundle', torchfleet_truth) }}"
"""

RETURN = r"""
_value:
  description: The values of the variables, by name.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import bundle
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def bundle_variables(manifest: Any, directory: Any, truth: Any) -> dict[str, Any]:
    return bundle.variables(plain(manifest), plain(directory), plain(truth))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"bundle_variables": bundle_variables}
