import panel

panel.extension()
slider = panel.widgets.IntSlider(name="How many", start=1, end=12)
panel.Column("# Cakes", slider).servable(title="Cakes for all")
