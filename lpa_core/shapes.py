"""Array shapes as types: `Float[Tensor, "b c h w"]` reads as documentation and is checked.

With jaxtyping installed (the tests install it, with beartype), every annotated function
checks the shapes of its arguments. Without it, the annotations are only documentation, so
that training needs nothing beyond torch.
"""

try:
    from jaxtyping import Bool, Float, Int, UInt8
except ImportError:  # annotations are then not checked

    class _Unchecked:
        def __class_getitem__(cls, item):
            return item[0]

    Bool = Float = Int = UInt8 = _Unchecked

__all__ = ["Bool", "Float", "Int", "UInt8"]
