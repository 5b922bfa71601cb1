"""``hessdiag doctor``."""

from __future__ import annotations


def doctor() -> None:
    """Show versions, devices and memory, and check that a small decomposition comes out right."""
    import platform
    from importlib import metadata

    import torch
    import torch.distributed as dist
    from rich.table import Table

    from hessdiag import Decomposition, __version__
    from hessdiag.cli import console
    from hessdiag.curvature.memory import available_bytes
    from hessdiag.errors import InputError

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_row("hessdiag", __version__)
    table.add_row(
        "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    for package in ("torch", "torchvision", "numpy", "scipy", "safetensors", "typer", "rich"):
        table.add_row(package, metadata.version(package))
    backends = filter(dist.is_backend_available, ("gloo", "nccl"))
    table.add_row("processes", f"torch.distributed by {' and '.join(backends) or 'nothing'}")
    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    residuals: list[float] = []
    for device in devices:
        name = (
            f"{torch.get_num_threads()} threads"
            if device.type == "cpu"
            else torch.cuda.get_device_name(device)
        )
        table.add_row(str(device), f"{name}, {available_bytes(device) / 2**30:.1f} GiB free")
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(8, 4, generator=generator, dtype=torch.float64)
        y = torch.randint(0, 3, (8,), generator=generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = torch.nn.Sequential(
                torch.nn.Linear(4, 5), torch.nn.GELU(), torch.nn.Linear(5, 3)
            )
        check = Decomposition(model, [(x, y)], dtype=torch.float64, device=device)
        residuals.append(check.residual())
        table.add_row("", f"H = G + N to {residuals[-1]:.1e} in float64")
        narrow = Decomposition(model, [(x, y)], dtype=torch.float32, device=device)
        rows = check.gradient().vector[None]
        wide = check.operator("hessian").matmat(rows)
        one, two = (narrow.operator("hessian").matmat(rows.float()) for _ in range(2))
        rounding = float((one - wide).norm() / wide.norm())
        table.add_row("", f"H v in float32 to {rounding:.1e}, TF32 and bfloat16 switched off")
        same = "twice the same bits" if torch.equal(one, two) else "not twice the same bits"
        table.add_row("", f"products: {same}")
    if len(devices) == 1:
        table.add_row("cuda", "none seen, nothing checked on one")
    if torch.backends.mps.is_available():
        table.add_row("mps", "seen, not used: it has no float64")
    console.out().print(table)
    if max(residuals) > 1e-12:
        raise InputError(
            "the decomposition does not come out right on this machine",
            got=f"residual {max(residuals):.1e}",
            wanted="at most 1e-12",
        )
