"""S4: models from elsewhere: no code of theirs, no template that gets out or goes on for ever, no moving name."""

import json
import shutil

import pytest
from random_xmtl import make_model

from xmtl_ray.generative import folders, hf_vlm, model_sizes
from xmtl_ray.generative.hf_template import written
from xmtl_ray.inference.coreference import clip_similarity
from xmtl_ray.models import encoders, own_code, untrusted_template, weights
from xmtl_ray.models.chat import ChatError

CODE = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
NAMED = {
    "config.json": {"auto_map": CODE},
    "config.json, a part of it": {"text_config": {"auto_map": CODE}},
    "config.json, another's code": {"auto_map": {"AutoModel": "somebody/else--own.Model"}},
    "tokenizer_config.json": {"auto_map": CODE},
    "processor_config.json": {"auto_map": CODE},
    "generation_config.json": {"custom_generate": "own.py"},
}


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    """A model folder of X-MTL, whose text encoder is a folder as the hub has them."""
    return make_model(world, tmp_path_factory.mktemp("model"), "multitask.tasks=[td]")


@pytest.fixture
def own(model, tmp_path):
    """Makes a folder with code in it, which leaves a file where it is imported; it has not been, at the end."""

    def make(name):
        folder = shutil.copytree(model, tmp_path / "model") / weights.TEXT
        file = folder / name.partition(",")[0]
        before = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps(before | NAMED[name]))
        (folder / "own.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n" + CLASSES)
        return folder

    yield make
    assert not (tmp_path / "imported").exists()


CLASSES = "from transformers import BertConfig\nclass Config(BertConfig): model_type = 'own'\n"


@pytest.mark.parametrize("name", NAMED)
def test_a_folder_that_names_code_is_refused(own, name):
    """Wherever it is named, by whoever would read it."""
    folder = own(name)
    where = rf"{name.partition(',')[0]}: (auto_map|custom_generate): found code of its own, which is not run"
    for read in (
        encoders.tokenizer,
        lambda text: encoders.configuration(text, "model.text_encoder"),
        lambda text: clip_similarity(text, 0.2, None),
        lambda _: weights.load(folder.parent),
        lambda _: folders.load_tokenizer(folder, None),
        lambda _: hf_vlm.load(folder, folder, None, None, None),
        lambda _: hf_vlm.outside_decoder(folder),
        lambda _: model_sizes._of_transformers(folder),
    ):
        with pytest.raises(ValueError, match=where):
            read(str(folder))


def test_trusted_it_would_be_imported(model, tmp_path, monkeypatch):
    """The control: what is refused above does run where it is trusted."""
    from transformers import AutoConfig, dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "cache"))
    folder = shutil.copytree(model / weights.TEXT, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": CODE}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n" + CLASSES)
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "imported").exists()


def test_code_that_nobody_names_is_left_alone(model, tmp_path):
    """A script in the folder is a file like others, and so is text that mentions the field."""
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / weights.TEXT / "modeling_own.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    (folder / weights.TEXT / "notes.json").write_text('{"about": "it once had an auto_map", "auto_map": null}')
    (folder / weights.TEXT / "broken.json").write_text("[" * 100_000)
    weights.load(folder)
    assert own_code.problem(folder / weights.TEXT) is None and not (tmp_path / "imported").exists()


def test_a_name_of_the_hub_may_be_pinned(caplog):
    """To a commit; a branch moves and is refused, and no revision at all is told."""
    commit = "0123456789" * 4
    assert encoders.located(f"who/what@{commit}", "x") == ("who/what", commit)
    for moving in ("main", "v1.0", commit[1:], commit.replace("0", "g")):
        with pytest.raises(encoders.EncoderError, match=r"expected the 40 hexadecimal digits of a commit"):
            encoders.located(f"who/what@{moving}", "x")
    assert not caplog.messages
    assert encoders.located("who/unpinned", "model.text_encoder") == ("who/unpinned", "main")
    assert "who/unpinned@COMMIT pins it" in caplog.text


# --- Chat templates ---------------------------------------------------------------------------------------------------

HOSTILE = {
    "reaches for Python": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "what a template may not touch"),
    "reaches for os": ("{{ cycler.__init__.__globals__.os.popen('touch FILE') }}", "what a template may not touch"),
    "stores a dunder": ("{% set x = namespace() %}{% set x.__class__ = 1 %}", "what a template may not touch"),
    "changes what was said": ("{{ messages.clear() }}", "what a template may not touch"),
    "a range of a billion": ("{% for i in range(10**9) %}{% endfor %}", "more than a conversation needs"),
    "a terabyte by a product": ("{{ 'x' * 10**12 }}", "more than a conversation needs"),
    "a gigabyte by a format": ("{{ '{:>9999999999}'.format(1) }}", "more than a conversation needs"),
    "a gigabyte by a filter": ("{{ 'x' | center(10**10) }}", "more than a conversation needs"),
    "calls itself for ever": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "more than a conversation needs"),
    "loops in loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "no end within 2 s",
    ),
    "a number of years": ("{{ 10 ** (10 ** 10) }}", "no end within 2 s"),
    "a megabyte": ("{{ 'x' * 10**6 }}", "1000000 letters for a few words"),
}
FINE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' ~ m.role ~ '|>' }}{{ m['content'] | trim }}\n{% endfor %}",
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[0].content }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ strftime_now('%Y') }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ m | tojson }}{% endfor %}",
    "{{ unknown.name }}",
    "{% for %}",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused(name, tmp_path):
    """In seconds, by a child process; what it would have done has not been done."""
    template, message = HOSTILE[name]
    with pytest.raises(ChatError, match=f"chat template: found .*{message}.*, expected a conversation in words"):
        untrusted_template.check(template.replace("FILE", str(tmp_path / "hit")), {}, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("template", FINE)
def test_others_pass(template):
    """With what transformers gives them; those that are wrong are told by who uses them."""
    untrusted_template.check({"default": template}, {"bos_token": "<s>"}, None)


def test_a_template_that_waits_is_an_error_where_it_strikes(model):
    """A word makes it ask for a billion turns: the trial does not say that word; it is told then, and ends nothing."""
    tokenizer = encoders.tokenizer(str(model / weights.TEXT))
    tokenizer.chat_template = (
        "{% if 'now' in messages[0].content[0].text %}{% for i in range(10**9) %}{% endfor %}{% endif %}x"
    )
    untrusted_template.check(tokenizer.chat_template, {}, ("image",))
    said = [{"role": "user", "content": [{"type": "text", "text": "now"}]}]
    with pytest.raises(ChatError, match="Range too big"):
        written(tokenizer, said, generation=True)


def test_a_tokenizer_with_a_hostile_template_is_not_used(model, tmp_path):
    """Where models are read, not only where the function is called."""
    folder = shutil.copytree(model / weights.TEXT, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(HOSTILE["a range of a billion"][0])
    with pytest.raises(ChatError, match=rf"{folder}: chat template: found OverflowError"):
        folders.load_tokenizer(folder, None)
