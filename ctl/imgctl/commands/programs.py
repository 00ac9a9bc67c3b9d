"""Commands that run another program."""

from __future__ import annotations

from imgctl.commands.base import HELP, Command

_VMADM = """\
For `create`, `validate`, `update` and `reprovision`: installs `image_uuid` and
each disk's `image_uuid` of the payload (-f FILE, or standard input), if they are
not there yet, into the payload's or the disk's `zpool`. They cannot be deleted
until vmadm has ended. Payload, arguments, output and exit status are vmadm's own;
other commands of vmadm are just run. If an image cannot be had, vmadm is not run.

IMGCTL_VMADM names another program than /usr/sbin/vmadm, as a wrapper of it."""

_ZSTREAM = """\
Commands:
    resume --token TOKEN [FILE]   write the stream that continues an interrupted
                                  `zfs receive -s` of FILE
    token TOKEN                   show what a receive token says, as JSON
    check [FILE]                  verify every checksum of a stream, and show
                                  what it is, as JSON
    write --name NAME DISK        write the stream of a volume with what is on
                                  DISK

FILE is a plain (not compressed) ZFS send stream; default is standard input.
`zstream COMMAND -h` shows all options. Needs no daemon. An interrupted receive
goes on with:

    zfs receive -s POOL/DATASET < FILE                        # interrupted
    token=$(zfs get -H -o value receive_resume_token POOL/DATASET)
    imgctl zstream resume --token $token FILE | zfs receive -s POOL/DATASET"""

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
    Command(
        ("zstream",),
        "zstream COMMAND [ARGS...]",
        "check, continue or make send streams",
        "zstream:zstream",
        (HELP,),
        _ZSTREAM,
        mixed=False,
        examples=(("zstream check disk.zfs", "verify every checksum of a stream"),),
    ),
)
