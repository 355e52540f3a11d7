"""One module for each figure: a pure function from result files to a Plotly figure. No model is ever loaded here."""
