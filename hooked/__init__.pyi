from .backends.anatomy import Anatomy as Anatomy, find_anatomy as find_anatomy
from .backends.attention_functions import (
    attention_through as attention_through,
    eager_attention as eager_attention,
)
from .backends.visits import Edit as Edit, first_of as first_of, with_first as with_first
from .batching import logits_agree as logits_agree, shared_runs as shared_runs
from .checkpoint import Checkpoint as Checkpoint, find_checkpoint as find_checkpoint, said_beside as said_beside
from .extraction import (
    ActivationBatch as ActivationBatch,
    ExtractionSpec as ExtractionSpec,
    LiveActivations as LiveActivations,
    Reading as Reading,
    stream_activations as stream_activations,
)
from .formats.named import NAMED_MODELS as NAMED_MODELS, NamedModel as NamedModel
from .generation import (
    GenerationStep as GenerationStep,
    Pick as Pick,
    Sampling as Sampling,
    Watch as Watch,
    answer_prompts as answer_prompts,
    before_end as before_end,
    context_of as context_of,
    continue_tokens as continue_tokens,
    device_of as device_of,
    end_ids as end_ids,
    likeliest as likeliest,
    only_last as only_last,
    padding_id as padding_id,
    turn_end as turn_end,
    vocabulary_of as vocabulary_of,
)
from .identity import (
    identity_sha256 as identity_sha256,
    model_facts as model_facts,
    state_sha256 as state_sha256,
    tensors_sha256 as tensors_sha256,
)
from .load import (
    load_model as load_model,
)
from .model import HookedModel as HookedModel, ModelInfo as ModelInfo, Run as Run
from .plain import (
    load_classifier as load_classifier,
    load_plain as load_plain,
    load_tokenizer as load_tokenizer,
    pick_device as pick_device,
    weights_sha256 as weights_sha256,
)
from .prefixes import (
    Following as Following,
    PrefixReader as PrefixReader,
    read_variants as read_variants,
    shared_length as shared_length,
)
from .prompts.answers import MAX_NEW_TOKENS as MAX_NEW_TOKENS, write_answers as write_answers
from .prompts.files import (
    PromptFile as PromptFile,
    begins_with_a_prompt as begins_with_a_prompt,
    read_prompts as read_prompts,
    write_prompts as write_prompts,
)
from .prompts.inspect_logs import begins_as_log as begins_as_log, read_log as read_log
from .prompts.pairs import (
    PromptPair as PromptPair,
    defecting_pairs as defecting_pairs,
    pair_prompts as pair_prompts,
)
from .prompts.places import (
    OpenPrompt as OpenPrompt,
    Place as Place,
    inserted_ids as inserted_ids,
    inserted_text as inserted_text,
    open_prompt as open_prompt,
    round_trips as round_trips,
    user_text as user_text,
    with_text_at as with_text_at,
    with_user_text as with_user_text,
)
from .prompts.prompts import CHAT_FIELDS as CHAT_FIELDS, Messages as Messages, Prompt as Prompt, file_of as file_of
from .prompts.rendering import DEFAULT_TODAY as DEFAULT_TODAY, pinned_date as pinned_date, prints_date as prints_date
from .prompts.same_tokens import check_labels as check_labels, contradictions as contradictions
from .prompts.splits import (
    PARTS as PARTS,
    Fractions as Fractions,
    Splits as Splits,
    check_split as check_split,
    check_two_classes as check_two_classes,
    choose_labels as choose_labels,
    group_prompts as group_prompts,
    split_prompts as split_prompts,
)
from .prompts.tokens import (
    TokenizedPrompt as TokenizedPrompt,
    pad_left as pad_left,
    pad_right as pad_right,
    span_positions as span_positions,
    token_texts as token_texts,
    tokenize_prompts as tokenize_prompts,
    tokenizer_sha256 as tokenizer_sha256,
)
from .provenance import (
    computed_otherwise as computed_otherwise,
    differences as differences,
    provenance_of as provenance_of,
)
from .rescaling import forget_lengths as forget_lengths
from .saving import check_saveable as check_saveable, plain_generation as plain_generation, save_plain as save_plain
from .selfcheck import probe_tokens as probe_tokens
from .sites import HEAD_KINDS as HEAD_KINDS, KINDS as KINDS, Site as Site, parse_site as parse_site
from .store import (
    ActivationStore as ActivationStore,
    cache_folder as cache_folder,
    default_store_root as default_store_root,
    store_activations as store_activations,
    tokens_sha256 as tokens_sha256,
)
from .workers.reading import loaded_again as loaded_again, reduce_activations as reduce_activations
