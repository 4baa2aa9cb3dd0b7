#!/usr/bin/python
# Copyright: the torchfleet contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Prove what one environment's torch can do on this host, and judge it against the plan."""

from __future__ import annotations

DOCUMENTATION = r"""
module: torch_probe
short_description: Prove what an environment's PyTorch can do on this host
version_added: 0.1.0
author: The torchfleet contributors (@torchfleet)
description:
  - Runs a probe with the environment's own Python. It asks C(torch.cuda), then launches a kernel on every
    GPU and compares the result with the CPU's, because C(is_available) is also true on a GPU that the
    build has no kernels for. On a GPU that passed, bfloat16, a convolution of cuDNN and, where torchvision
    is installed, one of its operators follow; across several GPUs an all-reduce of NCCL. Nothing stays on
    the GPU, and NumPy is not needed.
  - Judges the outcome against O(expect). A bad outcome is a verdict with named problems in RV(result), never
    a failed task, so that the play decides; a Python that does not exist is such a problem too.
options:
  python:
    description: Path of the environment's interpreter.
    type: path
    required: true
  environment:
    description: Name of the environment, for the result.
    type: str
    required: true
  expect:
    description: What the plan says. What is left out is not judged.
    type: dict
    default: {}
    suboptions:
      torch:
        description: Version of torch, with or without its local part, such as V(2.10.0) or V(2.10.0+cu128).
        type: str
      variant:
        description: V(cpu) or V(cuXYZ). With V(cpu), CUDA must not be available even on a GPU host.
        type: str
      cuda:
        description: Value of C(torch.version.cuda), such as V(12.8).
        type: str
      companions:
        description: The packages that must be importable beside torch, of V(torchvision) and V(torchaudio).
        type: list
        elements: str
      cuda_available:
        description: Whether CUDA must be available; V(false) demands that it is not.
        type: bool
      device_count:
        description: Number of GPUs that torch must see.
        type: int
      capabilities:
        description: The distinct compute capabilities of those GPUs, such as V(["9.0"]).
        type: list
        elements: str
  simulated:
    description:
      - The GPUs of this host are declared to be simulated. Everything is judged but the launch of the
        kernels, and a kernel that does run is a problem.
    type: bool
    default: false
  timeout:
    description: Time limit for the whole probe, in seconds; at the limit all its processes are killed.
    type: int
    default: 120
  env:
    description: Environment variables for the probe, beside those of the connection.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode and does the same in check mode.
  diff_mode:
    support: none
    description: Changes nothing.
requirements:
  - Python 3.8 or newer on the host, Python 3.7 or newer in the environment
"""

EXAMPLES = r"""
- name: Prove the environment
  torchfleet.gpu.torch_probe:
    python: /opt/miniconda3/envs/torch/bin/python
    environment: torch
    expect:
      torch: 2.10.0
      variant: cu128
      cuda: "12.8"
      cuda_available: true
      device_count: 2
      capabilities: ["9.0"]
  register: probe

- name: Stop where it failed
  ansible.builtin.assert:
    that: probe.result.verdict != 'failed'
    fail_msg: "{{ probe.result.problems }}"
"""

RETURN = r"""
result:
  description: The Result of docs/contracts.md.
  returned: always
  type: dict
  contains:
    environment:
      description: The environment's name.
      type: str
      returned: always
    verdict:
      description: One of V(verified), V(simulated), V(cpu) and V(failed).
      type: str
      returned: always
    torch:
      description: Version of torch; null when it cannot be imported.
      type: str
      returned: always
    cuda:
      description: Value of C(torch.version.cuda); null for a CPU build.
      type: str
      returned: always
    cuda_available:
      description: Value of C(torch.cuda.is_available).
      type: bool
      returned: always
    device_count:
      description: Value of C(torch.cuda.device_count).
      type: int
      returned: always
    devices:
      description:
        - For each GPU its index, name, capability, memory_bytes, kernel (whether it ran) and
          error; C(checks) has the error of each further check by its name, null where it passed.
      type: list
      elements: dict
      returned: always
    arch_list:
      description: What the build has kernels for.
      type: list
      elements: str
      returned: always
    cudnn:
      description: Version of cuDNN as torch gives it, such as 91002; null when nothing could be asked.
      type: int
      returned: always
    peers:
      description: Pairs of GPUs whose first reaches the memory of the second; null with fewer than two.
      type: list
      elements: list
      returned: always
    nccl:
      description: Version of NCCL after a right all-reduce across the GPUs; null with fewer than two.
      type: str
      returned: always
    torchvision:
      description: Version of torchvision; null when it is not installed. torchaudio likewise.
      type: str
      returned: always
    python:
      description: Version of the environment's Python.
      type: str
      returned: always
    warnings:
      description: Warnings of torch.
      type: list
      elements: str
      returned: always
    output:
      description: The end of what the probe printed, at most 4096 bytes.
      type: str
      returned: always
    problems:
      description:
        - Mappings with code, what, found, expected and fix; empty unless the verdict is V(failed).
        - "Codes of the environment: V(python_missing), V(torch_missing), V(companion_missing),
          V(import_failed), V(probe_failed), V(timeout), V(killed), V(wrong_torch_version), V(wrong_variant),
          V(cpu_build_on_gpu_host)."
        - "Codes of CUDA: V(no_driver), V(driver_too_old), V(library_mismatch), V(fabric_manager),
          V(device_nodes), V(container_without_gpu), V(hidden_by_CUDA_VISIBLE_DEVICES), V(cuda_init_failed),
          V(cuda_on_cpu_host)."
        - "Codes of the GPUs: V(device_count), V(capability), V(no_kernels), V(kernel_failed),
          V(out_of_memory), V(bfloat16_failed), V(cudnn_missing), V(cudnn_failed), V(torchvision_failed),
          V(nccl_failed), V(simulated_contradiction)."
      type: list
      elements: dict
      returned: always
      sample:
        - code: no_kernels
          what: this build of torch has no kernels for device 0 (NVIDIA GeForce GTX 1080, 6.1)
          found: kernels for sm_75 sm_80 sm_86 sm_90
          expected: kernels for 6.1
          fix: install the build that the plan gives for this GPU (role pytorch)
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils.judge import judge
from ansible_collections.torchfleet.gpu.plugins.module_utils.probe import run_probe

ARGUMENT_SPEC: dict[str, Any] = {
    "python": {"type": "path", "required": True},
    "environment": {"type": "str", "required": True},
    "expect": {
        "type": "dict",
        "default": {},
        "options": {
            "torch": {"type": "str"},
            "variant": {"type": "str"},
            "cuda": {"type": "str"},
            "companions": {"type": "list", "elements": "str"},
            "cuda_available": {"type": "bool"},
            "device_count": {"type": "int"},
            "capabilities": {"type": "list", "elements": "str"},
        },
    },
    "simulated": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 120},
    "env": {"type": "dict", "default": {}},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    if params["timeout"] < 1:
        module.fail_json(msg=f"timeout: found {params['timeout']}, expected at least 1 second")
    env = {str(name): str(value) for name, value in (params["env"] or {}).items()}
    told = run_probe(params["python"], params["timeout"], env)
    expect = params["expect"] or {}
    result = judge(
        told, params["environment"], params["python"], expect, params["simulated"], params["timeout"]
    )
    module.exit_json(changed=False, result=result)


if __name__ == "__main__":
    main()
