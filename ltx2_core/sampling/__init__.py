"""From noise to latents: schedules, samplers, guidance and the denoiser that samplers call."""
