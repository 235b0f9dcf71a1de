// @ts-check
/** Generated from ltx2_core/shapes.py by docs/page_table.py. */
export const TEMPORAL_SCALE = 8;
export const SPATIAL_SCALE = 32;
export const AUDIO_LATENTS_PER_SECOND = 25;
