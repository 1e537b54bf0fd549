"""The Gradio app: ``page`` lays out and wires, ``handlers`` are plain functions, ``charts`` draws reports."""
