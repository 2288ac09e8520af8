package nearline.flink;

import java.util.Arrays;
import java.util.HashSet;
import java.util.Map;
import java.util.Optional;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.io.network.netty.InboundChannelHandlerFactory;
import org.apache.flink.shaded.netty4.io.netty.channel.ChannelHandler;
import org.apache.flink.shaded.netty4.io.netty.channel.ChannelHandlerAdapter;
import org.apache.flink.shaded.netty4.io.netty.channel.ChannelHandlerContext;
import org.apache.flink.shaded.netty4.io.netty.handler.codec.http.HttpServerCodec;

/** Puts a RequestGuard into every connection of the REST interface; nearline.rest.hosts has the names that Host may have. */
public class RequestGuardFactory implements InboundChannelHandlerFactory {
    private static final String HOSTS = "nearline.rest.hosts";

    public int priority() {
        return 0;
    }

    public Optional createHandler(Configuration settings, Map answerHeaders) {
        final HashSet hosts = new HashSet(Arrays.asList(settings.getString(HOSTS, "").split(",")));
        return Optional.of(new ChannelHandlerAdapter() {
            /** Flink puts this one behind what takes uploads: the guard has to be before that. */
            public void handlerAdded(ChannelHandlerContext context) {
                String codec = context.pipeline().context(HttpServerCodec.class).name();
                context.pipeline().addAfter(codec, "request guard", new RequestGuard(hosts));
                context.pipeline().remove(this);
            }
        });
    }
}
