"""Commands that run another program."""

from __future__ import annotations

from imgctl.commands.base import HELP, Command

_VMADM = """\
`create`, `validate`, `update` and `reprovision` first install the `image_uuid` of
the payload (-f FILE, or standard input) and of each disk, if they are missing, into
the `zpool` of the payload or the disk. Nobody can delete these images until vmadm
has ended. If an image cannot be installed, vmadm does not run. Other commands of
vmadm just run. Payload, arguments, output and exit status are vmadm's own.

IMGCTL_VMADM names a program to run in place of /usr/sbin/vmadm, such as a wrapper."""

_ZSTREAM = """\
Commands:
    resume --token TOKEN [FILE]   write the stream that continues an interrupted
                                  `zfs receive -s` of FILE
    token TOKEN                   show the contents of a receive token, as JSON
    check [FILE]                  verify every checksum of a stream, and show
                                  its header, as JSON
    write --name NAME DISK        write the stream of a volume with the contents
                                  of DISK

FILE is a plain (not compressed) ZFS send stream; default is standard input.
`zstream COMMAND -h` shows all options. No daemon is needed. To continue an
interrupted receive:

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
            ("vmadm create -f web.json", "create a machine, and import its image if it is missing"),
            ("vmadm validate create -f web.json", "check whether vmadm could create it"),
        ),
    ),
    Command(
        ("zstream",),
        "zstream COMMAND [ARGS...]",
        "check, resume or make send streams",
        "zstream:zstream",
        (HELP,),
        _ZSTREAM,
        mixed=False,
        examples=(("zstream check disk.zfs", "verify every checksum of a stream"),),
    ),
)
