"""Levels that change while they serve: MiniLM by planes and by variants, through the C library, from eight threads."""

import pathlib
import shutil
import statistics
import threading

import numpy as np
import pytest

import model

TEXTS = ["A man is eating food.", "The girl is carrying a baby.", "Someone plays the cello while it rains outside."]
WIDTH = 384
MIB = 2**20


def resident():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def library(bitmill_path):
    return model.library_of(bitmill_path)


@pytest.fixture(scope="module")
def variants(bitmill, minilm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants") / "minilm"
    shutil.copytree(minilm, folder)
    for level in "int8", "int4":
        bitmill("quantize", minilm, "-o", folder / level, "--to", level)
    return folder


@pytest.fixture(scope="module")
def planes(milled):
    return milled("--to", "int8", "--format", "bitmill")


def truths(library, folder, levels):
    out = {}
    for level in levels:
        with model.Loader(library, folder, level) as loader:
            assert loader.json()["effective"] == level
            out[level] = loader.embed(TEXTS, WIDTH).tobytes()
    assert len(set(out.values())) == len(levels)
    return out


class Users:
    """Threads that embed without a pause, and know what every level gives."""

    def __init__(self, loader, expected, count=8):
        self.loader, self.expected = loader, set(expected.values())
        self.stop, self.runs, self.wrong = threading.Event(), [0] * count, []
        self.threads = [threading.Thread(target=self.work, args=(i,)) for i in range(count)]

    def work(self, i):
        while not self.stop.is_set():
            try:
                if self.loader.embed(TEXTS, WIDTH).tobytes() not in self.expected:
                    self.wrong.append("a mix")
            except model.Error as error:
                self.wrong.append(str(error))
            self.runs[i] += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.parametrize("kind, switches", [("planes", 1000), ("variants", 300)])
def test_switches_under_load(library, kind, switches, request):
    folder = request.getfixturevalue(kind)
    levels = ["int4", "int8"] if kind == "planes" else ["int8", "int4"]
    expected = truths(library, folder, levels)
    with model.Loader(library, folder, levels[0]) as loader:
        times, sizes = [], []
        with Users(loader, expected) as users:
            for i in range(1, switches + 1):
                record = loader.use_level(levels[i % 2])
                assert not record.reason and record.effective.decode() == levels[i % 2], record.reason
                assert bool(record.planes) == (kind == "planes")
                times.append(record.load_ms)
                if i % 2 == 0:
                    sizes.append(resident())
        assert not users.wrong, users.wrong[:3]
        assert all(users.runs)
        # The first third warms every thread's scratch; what the last one holds beyond that would be a leak.
        third = len(sizes) // 3
        growth = statistics.median(sizes[-third:]) - statistics.median(sizes[third:-third])
        print(f"{kind}: {sum(users.runs)} calls, switch median {statistics.median(times):.1f} ms, "
              f"most {max(times):.1f} ms, resident {growth / MIB:+.2f} MiB")
        assert growth < 8 * MIB
        assert loader.json()["switches"][-1]["number"] == switches + 1


def test_the_memory_of_a_level_returns(library, variants):
    with model.Loader(library, variants, "original") as loader:
        loader.embed(TEXTS, WIDTH)
        before, weights = resident(), loader.json()["switches"][-1]["weight_bytes"]
        record = loader.use_level("int4")
        loader.embed(TEXTS, WIDTH)
        returned = before - resident()
        freed = weights - record.weight_bytes
        print(f"{returned / MIB:.1f} of {freed / MIB:.1f} MiB returned")
        assert freed > 30 * MIB and returned > 0.7 * freed


def test_a_canary_takes_sound_levels_and_refuses_others(library, variants, planes, tmp_path):
    canary = ["How tall is the tower?", "A dog runs through the snow.", "Prices rose again last month."]
    with model.Loader(library, variants, "original", canary=canary) as loader:
        cosines = {level: loader.use_level(level) for level in ("int8", "int4")}
        assert all(record.has_canary and not record.reason for record in cosines.values())
        assert 0.99 < cosines["int8"].canary_cosine < 1 and 0.9 < cosines["int4"].canary_cosine < 0.99
        print({level: (record.canary_cosine, record.load_ms, record.canary_ms) for level, record in cosines.items()})
    # The int8 weights of another model, sound as files.
    mixed = tmp_path / "mixed"
    shutil.copytree(variants, mixed)
    path = mixed / "int8" / "model.safetensors"
    data = bytearray(path.read_bytes())
    header = int.from_bytes(data[:8], "little") + 8
    codes = np.frombuffer(data, np.uint8)[header:]
    codes[: codes.size // 2] = np.roll(codes[: codes.size // 2], 4096)
    path.write_bytes(data)
    with model.Loader(library, mixed, "original", canary=canary) as loader:
        expected = loader.embed(TEXTS, WIDTH)
        record = loader.use_level("int8")
        assert record.fault and record.effective == b"original" and record.reason
        assert np.array_equal(loader.embed(TEXTS, WIDTH), expected)


def test_a_manager_walks_by_memory(library, variants):
    expected = truths(library, variants, ["fp16", "int8", "int4"])
    with model.Manager(library) as manager:
        manager.add("minilm", variants)
        for used, level in (0.2, "fp16"), (0.5, "int8"), (0.7, "int4"):
            manager.used = used
            with manager.load("minilm") as one:
                assert (one.level, one.embed(TEXTS, WIDTH).tobytes()) == (level, expected[level])
                assert "memory in use" in one.explanation
        status = manager.status()
        assert [one["to"] for one in status["switches"]] == ["fp16", "int8", "int4"]
        assert status["memory"]["used_percent"] == "70.0%"
        with pytest.raises(model.Error, match="there is no model 'other'"):
            manager.load("other")


def test_a_registry_mills_once(library, minilm, tmp_path):
    shutil.copytree(minilm, tmp_path / "minilm")
    with model.Registry(library, tmp_path) as registry:
        first, again = registry.quantize("minilm"), registry.quantize("minilm")
        assert (first.did_work, again.did_work, again.already_quantized) == (1, 0, 1)
        assert first.message == b"Successfully quantized minilm model"
        assert again.message == b"Model minilm is already quantized"
        assert first.job_id == again.job_id
        assert [one["levels"] for one in registry.list()] == [["original", "int8", "int4"]]
        with pytest.raises(model.Error, match="Model other not found or not supported for quantization"):
            registry.quantize("other")


def test_switch_times_of_bert_base(library, bitmill, memory_folder, request):
    """Reported, never gated: 86 million weights in planes and in variants."""
    import encoders

    folder = memory_folder / "bert-base"
    made = encoders.make_model("bert", 768, 12, 3072, layers=12, vocabulary=2000)
    made.save_pretrained(folder)
    request.addfinalizer(lambda: shutil.rmtree(folder))
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"])}
    (folder / "tokenizer.json").write_text(
        '{"added_tokens": [], "pre_tokenizer": {"type": "BertPreTokenizer"}, "model": {"type": "WordPiece", '
        '"unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": '
        + str(vocabulary).replace("'", '"') + "}}"
    )
    bitmill("quantize", folder, "-o", folder / "planes", "--to", "int8", "--format", "bitmill")
    for level in "int8", "int4":
        bitmill("quantize", folder, "-o", folder / level, "--to", level)
    for name in "planes", "variants":
        with model.Loader(library, folder / "planes" if name == "planes" else folder, "int4") as loader:
            times = {"int8": [], "int4": []}
            for i in range(10):
                for level in times:
                    record = loader.use_level(level)
                    assert not record.reason and bool(record.planes) == (name == "planes")
                    times[level].append(record.load_ms)
            print(name, {level: round(statistics.median(all), 1) for level, all in times.items()}, "ms")
