from .collation import PaddingCollator as PaddingCollator
from .mask_views import MaskView as MaskView, mask_view as mask_view
from .packing import best_fit as best_fit, pack as pack, pad as pad
from .tokenization import (
    IGNORE_INDEX as IGNORE_INDEX,
    TokenizedExamples as TokenizedExamples,
    encode_texts as encode_texts,
    tokenize_examples as tokenize_examples,
    tokenize_rows as tokenize_rows,
)
