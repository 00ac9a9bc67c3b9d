"""What makes machines."""

from __future__ import annotations

from imgctl.commands.base import HELP, Command

_VMADM = """\
For `create`, `validate`, `update` and `reprovision`: installs `image_uuid` and
each disk's `image_uuid` of the payload (-f FILE, or standard input), if they are
not there yet, into the payload's or the disk's `zpool`. They cannot be deleted
until vmadm has ended. Payload, arguments, output and exit status are vmadm's own;
other commands of vmadm are just run. If an image cannot be had, vmadm is not run.

IMGCTL_VMADM names another program than /usr/sbin/vmadm, as a wrapper of it."""

COMMANDS = (
    Command(
        ("vmadm",),
        "vmadm COMMAND [ARGS...]",
        "run vmadm, once its images are installed",
        "vmadm:vmadm",
        (HELP,),
        _VMADM,
        mixed=False,
        examples=(
            ("vmadm create -f web.json", "create a machine, and import its image if need be"),
            ("vmadm validate create -f web.json", "look whether it could be created"),
        ),
    ),
)
