"""Mills a model to int8, int4, nf4 and fp16 with the bitmill command and prints what each costs and gives."""

import argparse
import json
import pathlib
import subprocess
import sys

LEVELS = ("int8", "int4", "nf4", "fp16")
COLUMNS = ("level", "how", "size MB", "ratio", "bits/weight", "seconds", "GB/s", "SNR dB")


def mill(bitmill, model, out, level):
    command = [bitmill, "quantize", model, "-o", out, "--to", level, "--force", "--json"]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"demo: milling to {level} failed")
    return json.loads(done.stdout)


def row(level, report):
    # Bits per weight are those of the weights that were coded, scales included; the rest is kept as it was.
    return (level, report["requested"], f"{report['bytes'] / 1e6:.1f}", f"{report['ratio_to_source']:.2f}",
            f"{report['coded_bits_per_weight']:.2f}", f"{report['seconds']:.2f}", f"{report['gb_per_second']:.2f}",
            f"{report['error']['snr_db']:.1f}")


def show(rows):
    widths = [max(len(line[i]) for line in rows) for i in range(len(COLUMNS))]
    for line in rows:
        text = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
        print("  ".join(text))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bitmill", "model", "out"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    reports = [(level, mill(args.bitmill, args.model, args.out / level, level)) for level in LEVELS]
    source = reports[0][1]
    print(f"\n{args.model}: {source['parameters'] / 1e6:.1f} million weights, {source['source_bytes'] / 1e6:.1f} MB")
    show([COLUMNS] + [row(level, report) for level, report in reports])
    print(f"\nEach is a complete model folder in {args.out}/: "
          f"AutoModel.from_pretrained('{args.out}/int8') loads it.")


if __name__ == "__main__":
    main()
