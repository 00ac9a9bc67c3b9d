"""Creating, exporting and publishing images, and their send streams."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import HELP, IMAGE, POOL, QUIET, Command

_TOKEN = Option(
    ("--token-file",),
    "FILE",
    'File with the token for the server; "-": standard input. Default: IMGCTL_TOKEN in the environment.',
)
_CREATE = """\
SOURCE is the uuid of a stopped VM, or the name of a dataset or volume, such as
zones/web. With --raw SOURCE is a disk: raw, or with qemu-img a qcow2, a vmdk, or an
OVA with one vmdk in it. --raw needs neither a daemon nor ZFS. Other formats, archives
and compressed files are refused; the error says what to do.

A VALUE is JSON if it can be, and text otherwise. `name` and `version` are always
text, and required, as arguments or in MANIFEST. The new image inherits all other
fields from the image that SOURCE is a clone of."""

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

_PATH = "The path of the image's files: a folder, or a path without extension. "
_DEFAULT = "Default is NAME-VERSION in the current folder."
_OUTPUT = Option(("-o", "--output-template"), "PATH", _PATH + _DEFAULT)
_COMPRESSION = Option(
    ("-c", "--compression"),
    "COMPRESSION",
    'One of "none" (the default), "gzip", "bzip2", "xz" or "zstd".',
)

_INDEX = Option(("--index",), "", "With -c zstd: write an index beside the file, for deltas.")

COMMANDS = (
    Command(
        ("create",),
        "create [OPTIONS] SOURCE [FIELD=VALUE...]",
        "create an image from a VM, a dataset or a disk",
        "making:create",
        (
            HELP,
            Option(
                ("-m",),
                "MANIFEST",
                'Path to a JSON file with fields of the new manifest; "-": standard input.',
            ),
            _OUTPUT,
            _COMPRESSION,
            _INDEX,
            Option(
                ("-i", "--incremental"),
                "",
                "Create an incremental image: only the differences from the origin.",
            ),
            Option(
                ("--max-origin-depth",),
                "DEPTH",
                "With -i: the maximum number of origins below the new image.",
            ),
            Option(
                ("-s",), "SCRIPT", "Path to a script that prepares the VM; the VM is rolled back afterwards."
            ),
            Option(("-p", "--publish"), "URL", "Publish the image to an IMGAPI server, and keep no files."),
            _TOKEN,
            Option(("--raw",), "", "SOURCE is a disk, in a file or a device."),
            Option(("--as-raw",), "", "As --raw, but never convert the disk, even if it looks like a qcow2."),
            Option(("--block-size",), "BYTES", "With --raw: the block size of the volume. Default is 8192."),
            QUIET,
        ),
        _CREATE,
        examples=(
            ("create -c gzip zones/web name=web version=1.0.0 os=smartos", "from a dataset"),
            ("create --raw -c zstd disk.qcow2 name=web version=1.0.0 os=linux", "from a disk"),
            (
                f"create -i -c gzip -p https://images.example.com {IMAGE} name=web version=1.0.1",
                "from a stopped VM, published to a server",
            ),
        ),
    ),
    Command(
        ("publish",),
        "publish [OPTIONS] -m MANIFEST -f FILE URL | IMAGE URL",
        "publish an image to an image repo",
        "making:publish",
        (
            HELP,
            Option(
                POOL.flags, "POOL", "The pool of an installed IMAGE. Default is the daemon's.", imgadms=False
            ),
            Option(("-m",), "MANIFEST", "Path to the image's manifest, in JSON."),
            Option(("-f",), "FILE", "Path to the image's file."),
            _TOKEN,
            Option(
                ("--sign",),
                "KEYFILE",
                "Sign an image in a registry with this secret key. May be given several times.",
                imgadms=False,
            ),
            QUIET,
        ),
        examples=(
            ("publish -m web.imgmanifest -f web.zfs.gz https://images.example.com", "to an IMGAPI server"),
            (
                "publish -m web.imgmanifest -f web.zfs.gz oci://registry.example.com/images",
                "to a repository of an OCI registry",
            ),
            ("publish web@1.0.0 oci://registry.example.com/images", "an installed image, in layers"),
            ("publish --sign site.key web@1.0.0 oci://registry.example.com/images", "signed"),
        ),
        about=(
            "A server gets the file as it is. An installed IMAGE is sent as `imgctl export -c zstd`\n"
            "writes it. A registry, oci://HOST/PATH, gets a file of zstd in layers. After an\n"
            "interruption the same command goes on. Hosts with the public key in `keys` of the\n"
            "source take only what is signed; `imgctl keys make` makes a key."
        ),
        imgadms_usage="publish [OPTIONS] -m MANIFEST -f FILE URL",
    ),
    Command(
        ("export",),
        "export [OPTIONS] IMAGE...",
        "write an installed image to files or to a stream, for another host",
        "making:export",
        (
            HELP,
            POOL,
            Option(
                _OUTPUT.flags,
                _OUTPUT.argument,
                _PATH + '"-": standard output, as a tar archive of manifest and file. ' + _DEFAULT,
            ),
            _COMPRESSION,
            _INDEX,
            Option(
                ("--format",),
                "FORMAT",
                'One of "stream" (the default), which `install` takes; for a zvol also "raw", the disk, or, '
                'with qemu-img, "qcow2".',
            ),
            QUIET,
        ),
        examples=(
            (f"export -o /var/tmp -c gzip {IMAGE}", "its manifest and file"),
            (f"export --format qcow2 {IMAGE}", "its disk"),
            ("export -c zstd -o - web@1.2 | ssh host imgctl install -f -", "to another host, without files"),
        ),
    ),
    Command(
        ("copy",),
        "copy [-P POOL] [-c COMPRESSION] [-q] IMAGE... HOST",
        "copy installed images to another host, by ssh",
        "copy:copy",
        (HELP, POOL, _COMPRESSION, QUIET),
        "HOST is [USER@]HOST[:PORT], as for `imgctl -H`, with imgctl and a running imgstored.\n"
        "Origins that HOST lacks are copied first; images that HOST has are not copied again.\n"
        "The images go as `export -o -` writes them, through ssh, and are installed there.",
        examples=(
            ("copy web@1.2.0 root@web2", "an image and its origins"),
            (f"copy -c zstd {IMAGE} web2:2222", "compressed on the way, and installed compressed"),
        ),
    ),
    Command(
        ("zstream",),
        "zstream COMMAND [ARGS...]",
        "check, resume or make send streams",
        "programs:zstream",
        (HELP,),
        _ZSTREAM,
        mixed=False,
        examples=(("zstream check disk.zfs", "verify every checksum of a stream"),),
    ),
)
