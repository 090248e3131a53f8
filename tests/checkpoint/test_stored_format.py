"""A checkpoint that was written once, by the version that introduced its format, is read for as long as the format is."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from damage import claim_version
from jax.sharding import NamedSharding, PartitionSpec
from stored_numbers import META, SHAPES, main, number_array

from llama3_jax.checkpoint.manifest import FORMAT_VERSION, read_manifest, verify
from llama3_jax.checkpoint.restore import restore, restore_part
from llama3_jax.checkpoint.store import CheckpointStore

STORED = Path(__file__).parent / f"format_{FORMAT_VERSION}"


def like(placed):
    """The stored tree as shapes on a mesh, what can be split over data."""

    def place(array):
        partition = PartitionSpec("data") if array.ndim else PartitionSpec()
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=NamedSharding(placed, partition))

    return {name: place(number_array(name)) for name in SHAPES}


@pytest.mark.parametrize("axes", [{}, {"data": 2, "model": 2}])
def test_the_stored_checkpoint_is_read_bit_for_bit(mesh, axes):
    path, manifest = CheckpointStore(STORED).latest(report=pytest.fail)
    assert (manifest.step, manifest.meta) == (7, META)
    found = restore(path, manifest, like(mesh(**axes)))
    for name in SHAPES:
        expected = number_array(name)
        assert found[name].dtype == expected.dtype and np.asarray(found[name]).tobytes() == expected.tobytes()


def test_this_version_writes_the_same_names_and_meta(tmp_path):
    main(tmp_path)
    stored, written = verify(STORED / "00000007"), verify(tmp_path / "00000007")
    assert (written.format_version, written.arrays, written.meta) == (stored.format_version, stored.arrays, stored.meta)


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, "next"])
def test_another_version_is_refused_and_says_what_to_do(tmp_path, version):
    shutil.copytree(STORED / "00000007", tmp_path / "00000007")
    claim_version(tmp_path / "00000007", version)
    with pytest.raises(ValueError, match=f"has checkpoint format {version}, this version of llama3_jax reads.*install"):
        read_manifest(tmp_path / "00000007")
    with pytest.raises(ValueError, match=f"format {version}"):
        CheckpointStore(tmp_path).latest()


def test_a_dtype_policy_is_another_when_it_is_asked_for(mesh):
    path, manifest = CheckpointStore(STORED).latest()
    name = "blocks.attention.w_q"
    fresh = {name: jnp.zeros(SHAPES["state.model." + name], jnp.bfloat16), "head": jnp.ones((3,), jnp.float32)}
    with pytest.raises(ValueError, match="state.model.blocks.attention.w_q is float32.*expected bfloat16"):
        restore(path, manifest, fresh, prefix="state.model.")
    tree, taken = restore_part(path, manifest, fresh, prefix="state.model.")
    np.testing.assert_array_equal(tree[name], jnp.asarray(number_array("state.model." + name), jnp.bfloat16))
    np.testing.assert_array_equal(tree["head"], np.ones(3))
    assert taken.restored == ("state.model." + name,) and taken.missing == ("state.model.head",)
    assert taken.cast == (f"state.model.{name}: float32 -> bfloat16",)
    assert "state.model.embedding" in taken.surplus and "state.moments.mu.embedding" in taken.surplus
    assert "missing: state.model.head" in str(taken) and "float32 -> bfloat16" in str(taken)
    with pytest.raises(ValueError, match=r"state.model.embedding is \[64, 16\], expected \[65, 16\]"):
        restore_part(path, manifest, {"embedding": jnp.zeros((65, 16))}, prefix="state.model.")
    with pytest.raises(ValueError, match="no array named state.adapter..."):
        restore_part(path, manifest, {"w": jnp.zeros((2,))}, prefix="state.adapter.")
