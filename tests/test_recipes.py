"""The list of recipes, and what an unknown name may mean."""

import subprocess
import sys

from atrous.recipes import hint, in_folder, lines, matching, recipes


def test_a_folder_stands_for_its_recipes() -> None:
    assert list(in_folder("voc")) == [name for name in recipes() if name.startswith("voc/")] != []
    assert in_folder("voc/") == in_folder("voc")
    assert in_folder("") == recipes()
    assert in_folder("vo") == {}


def test_each_line_has_a_name_and_what_the_recipe_is() -> None:
    for name, line in zip(recipes(), lines(recipes()), strict=True):
        assert line.startswith(f"{name} ")
        assert len(line.removeprefix(name).strip()) > 20, line


def test_an_unknown_name_is_answered_with_names_like_it() -> None:
    assert matching("voc") == list(in_folder("voc"))
    assert matching("psanet") == [name for name in recipes() if "psanet" in name] != []
    assert matching("folder/deeplab_v3pluss") == ["folder/deeplab_v3plus"]
    assert matching("folde") == list(in_folder("folder"))
    assert hint("zzz") == "; `atrous recipes` lists the recipes"


def test_the_list_needs_no_torch() -> None:  # a shell asks for it at each press of Tab
    code = "import sys, atrous.cli, atrous.recipes; atrous.recipes.recipes(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
