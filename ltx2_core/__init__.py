"""LTX-2 as a plain torch library: text, image and audio in, video with sound out."""
