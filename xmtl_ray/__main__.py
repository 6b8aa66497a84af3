"""``python -m xmtl_ray`` is ``xmtl``."""

from xmtl_ray.cli.main import main

if __name__ == "__main__":
    main()
